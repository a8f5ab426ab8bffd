"""Planted bugs. A simulator that finds none of them proves nothing.

Each mutant swaps rules for wrong ones while a schedule runs: in a table of rules, in a class, or in the
module that looks the rule up by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from isthmus.sim.invariant import InvariantError

Simulate = Callable[[int, Any], object]
"""(seed, config): runs one schedule. Raises InvariantError."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    bug: str
    swaps: tuple[tuple[Any, Any, Any], ...]
    """(module, class or table; name or key; the wrong rule)"""
    config: Any = None
    """The simulator's own; None: all from the seed."""
    seeds: int = 400
    """Schedules it must be found in."""


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    mutant: str
    seed: int
    invariant: str


def hunt(mutant: Mutant, simulate: Simulate) -> Caught | None:
    """Runs schedules until one breaks an invariant, and that one once more to see it break again. Without the
    mutant it must hold: else the rule itself is wrong, and the mutant gets no credit.
    """
    with planted(mutant):
        tried = ((seed, _breaks(simulate, seed, mutant.config)) for seed in range(mutant.seeds))
        seed, invariant = next(((seed, what) for seed, what in tried if what), (-1, ""))
        if not invariant or _breaks(simulate, seed, mutant.config) != invariant:
            return None
    if _breaks(simulate, seed, mutant.config):
        return None
    return Caught(mutant=mutant.name, seed=seed, invariant=invariant)


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    right = [(place, key, _swap(place, key, wrong)) for place, key, wrong in mutant.swaps]
    try:
        yield
    finally:
        for place, key, rule in reversed(right):
            _swap(place, key, rule)


def _swap(place: Any, key: Any, value: Any) -> Any:
    """Puts `value` there and returns what was there."""
    if isinstance(place, dict):
        old, place[key] = place[key], value
        return old
    old = getattr(place, key)
    setattr(place, key, value)
    return old


def _breaks(simulate: Simulate, seed: int, config: Any) -> str:
    """The broken invariant in one line, or ''."""
    try:
        simulate(seed, config)
    except InvariantError as error:
        return str(error).splitlines()[0]
    return ""
