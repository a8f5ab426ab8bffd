"""docs/catalogue.md is what the catalogue holds."""

from pathlib import Path

from isthmus.faults.catalogue import reference

ROOT = Path(__file__).parents[3]


def test_the_page_is_fresh():
    written = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert written == reference.reference(), "stale: run `python -m isthmus.faults.catalogue.reference`"
