"""Entries by a line of a log, and by words."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

from isthmus.faults.catalogue import pattern
from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.load import Catalogue

LEAST_SPECIFIC = frozenset({"PY-EXC"})
"""What says only that something failed: such an entry counts where no other one hits."""

_GRAM = pattern.MIN_LITERAL
_WEIGHTS = (("id", 8.0), ("title", 4.0), ("kind", 4.0), ("chips", 2.0), ("signature", 1.5), ("cause", 1.0))


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that answers a search."""

    entry: Entry
    score: float
    """How well its words fit; 0 where its signature hit."""
    line: str = ""
    """What its signature hit; empty where only words did."""


class Signatures:
    """All signatures, found by four letters of a word that each of them needs.

    A line of a few hundred letters costs some 20 us, whatever the number of entries.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        needs = [
            (text, entry, word)
            for entry in entries
            for text in entry.signature
            for word in sorted(pattern.literals(text))
        ]
        often = Counter(gram for *_, word in needs for gram in _grams(word))
        self._by_gram: dict[str, list[tuple[str, str, Entry]]] = defaultdict(list)
        for text, entry, word in needs:
            rarest = min(sorted(_grams(word)), key=lambda gram: often[gram])
            self._by_gram[rarest].append((word, text, entry))

    def hits(self, line: str) -> list[Entry]:
        """The entries whose signature hits this line, the most telling first."""
        lower = line.lower()
        found: dict[str, tuple[int, Entry]] = {}
        for gram in _grams(lower) & self._by_gram.keys():
            for word, text, entry in self._by_gram[gram]:
                if word in lower and pattern.compiled(text).search(line):
                    length = max(len(word), found[entry.id][0] if entry.id in found else 0)
                    found[entry.id] = (length, entry)
        told = {name: value for name, value in found.items() if name not in LEAST_SPECIFIC} or found
        return [entry for _, entry in sorted(told.values(), key=lambda hit: (-hit[0], hit[1].id))]


def search(catalogue: Catalogue, text: str, limit: int = 10) -> list[Match]:
    """What a pasted line hits; else the entries that hold its words, the best first."""
    hits = Signatures(catalogue.entries).hits(text)
    if hits:
        return [Match(entry=entry, score=0.0, line=text) for entry in hits[:limit]]
    words = set(_words(text))
    scored = [Match(entry=entry, score=_score(entry, words)) for entry in catalogue.entries]
    best = sorted((match for match in scored if match.score > 0), key=lambda m: (-m.score, m.entry.id))
    return best[:limit]


def _score(entry: Entry, words: set[str]) -> float:
    total = 0.0
    for field, weight in _WEIGHTS:
        value = getattr(entry, field)
        held = set(_words(value if isinstance(value, str) else " ".join(value)))
        total += weight * len(words & held)
        total += weight / 4 * sum(any(word in other for other in held) for word in words - held)
    return round(total, 2)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if len(word) > 1]


def _grams(text: str) -> set[str]:
    return {text[at : at + _GRAM] for at in range(len(text) - _GRAM + 1)}
