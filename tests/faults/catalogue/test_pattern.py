"""What words a pattern needs."""

import pytest

from isthmus.faults.catalogue.pattern import literals, problem


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("CUDA out of memory", {"cuda out of memory"}),
        (r"Xid \(PCI:[0-9a-f:.]+\): 79", {"xid (pci:"}),
        (r"(?:first|second) fault", {" fault"}),
        (r"(?:segmentation|bus) \d", set()),
        (r"(?:segmentation|abort) \d", {"segmentation", "abort"}),
        (r"(?i)TIMEOUT after \d+", {"timeout after "}),
        (r"(?:abcd)+x?", {"abcd"}),
        (r"(?:abcd)?xy", set()),
        (r"ab(cd)e", {"abcde"}),
    ],
)
def test_words_that_every_hit_contains(pattern: str, words: set[str]):
    assert literals(pattern) == words


@pytest.mark.parametrize(
    "pattern", ["(?=abcd)abcd", "(?!abcd)efgh", r"(abcd)\1", "(?>abcd)", "abcd++", "(abcd", r"\d+", "ab|cdef"]
)
def test_what_a_signature_may_not_be(pattern: str):
    assert problem(pattern)
