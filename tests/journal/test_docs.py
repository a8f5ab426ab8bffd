"""docs/journal.md tells of every event and every field of it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from isthmus.journal.events import AnyEvent, Event

PAGE = Path(__file__).parents[2] / "docs" / "journal.md"


@pytest.mark.parametrize("kind", get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_is_documented(kind: type[Event]):
    rows = re.findall(rf"^\| `{kind.__name__}` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 1
    for field in set(kind.__struct_fields__) - {"wall_s", "source"}:
        assert f"`{field}`" in rows[0], field


def test_nothing_else_is_documented():
    known = {kind.__name__ for kind in get_args(AnyEvent)}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)) == known
