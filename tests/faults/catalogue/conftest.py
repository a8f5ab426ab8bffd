"""The shipped catalogue's signatures, and an entry of one's own."""

import pytest

from isthmus.faults.catalogue.find import Signatures
from isthmus.faults.catalogue.load import load_catalogue

ENTRY = """\
entries:
  - id: MY-FAULT
    title: The frobnicator left its track
    class: crash
    chips: [any]
    signature: ['frobnicator \\d+ off its track']
    cause: It was pushed.
    blast_radius: rank
    action: restart_rank
    verify: It is back on its track for 200 steps.
    sources: ['https://example.org/frobnicator']
    tests: ['[rank1]: error: frobnicator 7 off its track']
"""


@pytest.fixture(scope="session")
def signatures() -> Signatures:
    return Signatures(load_catalogue().entries)


@pytest.fixture
def entry() -> str:
    """A complete file of one entry."""
    return ENTRY
