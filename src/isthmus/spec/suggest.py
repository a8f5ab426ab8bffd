"""The word someone probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the closest of the known words; None if none is close."""
    close = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None
