"""Whether an entry is complete, and finds the lines that it says it finds."""

import re
from collections.abc import Iterator

from isthmus.faults.catalogue import pattern
from isthmus.faults.catalogue.entry import Entry

_ID = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)*")
_TEXTS = ("title", "cause", "verify")
_LISTS = ("chips", "signature", "sources", "tests")


def problems(entry: Entry) -> Iterator[str]:
    """What is wrong with it, in the order of its fields."""
    if not _ID.fullmatch(entry.id):
        yield "its id is not of capital letters, digits and hyphens"
    for name in _TEXTS:
        if not getattr(entry, name).strip():
            yield f"'{name}' is empty"
    for name in _LISTS:
        if not all(text.strip() for text in getattr(entry, name)) or not getattr(entry, name):
            yield f"'{name}' is empty"
    bad = [(text, wrong) for text in entry.signature if (wrong := pattern.problem(text))]
    for text, wrong in bad:
        yield f"the signature '{text}' {wrong}"
    if not bad:
        yield from _missed(entry)


def _missed(entry: Entry) -> Iterator[str]:
    compiled = [pattern.compiled(text) for text in entry.signature]
    for line in entry.tests:
        if not any(each.search(line) for each in compiled):
            yield f"its signature does not hit its test line '{line}'"
