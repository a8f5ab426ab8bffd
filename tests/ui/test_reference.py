"""The table of verbs is complete, and docs/cli.md is what the commands say of themselves."""

from pathlib import Path

from isthmus.ui import cli, reference
from isthmus.ui.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]


def test_every_verb_has_its_line_in_the_table():
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "verbs"}
    assert {verb.target.split(":")[0] for verb in VERBS} == modules


def test_the_reference_is_fresh():
    written = (ROOT / reference.PAGE).read_text()
    assert written == reference.reference(), "stale: run `python -m isthmus.ui.reference`"
