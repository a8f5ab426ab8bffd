"""Contenders take turns; what they measured is compared turn by turn."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

import torch

from isthmus.errors import IsthmusError
from isthmus_bench.moe.contender import Contender

Turns = list[dict[str, float]]


@dataclass(frozen=True)
class Effort:
    warm_up: int
    turns: int
    tokens: int


@dataclass
class Race:
    """What each contender measured in each turn, and why some are not there."""

    turns: dict[str, Turns] = field(default_factory=dict)
    fixed: dict[str, Turns] = field(default_factory=dict)
    """The same tokens, and so the same routing, in every turn."""
    missing: list[str] = field(default_factory=list)


def race(contenders: Iterable[Contender], effort: Effort, fixed: bool = False) -> Race:
    """Closes the contenders. The first must finish; others may fail."""
    result = Race()
    with ExitStack() as stack:
        running = [stack.enter_context(contender) for contender in contenders]
        _take_turns(running, result.turns, range(effort.warm_up + effort.turns), result)
        if fixed:
            _take_turns(running, result.fixed, [0] * (effort.warm_up + effort.turns), result)
    for turns in (*result.turns.values(), *result.fixed.values()):
        del turns[: effort.warm_up]
    return result


def _take_turns(
    running: list[Contender], turns: dict[str, Turns], seeds: Iterable[int], result: Race
) -> None:
    for seed in seeds:
        for contender in list(running):
            try:
                turns.setdefault(contender.name, []).append(contender.turn(seed))
            except IsthmusError as error:
                if contender is running[0]:
                    raise
                running.remove(contender)
                for kind in (result.turns, result.fixed):
                    kind.pop(contender.name, None)
                result.missing.append(f"not run: {error}")


def fraction(turns: Turns) -> float:
    """Of the dense roofline."""
    return median(turn["dense_s"] / turn["s"] for turn in turns)


def faster(ours: Turns, theirs: Turns) -> float:
    """Their time over ours, each over the roofline of its own turn where it has one."""
    pairs = zip(ours, theirs, strict=True)
    return median(_relative(b) / _relative(a) for a, b in pairs)


def _relative(turn: Mapping[str, float]) -> float:
    return turn["s"] / turn.get("dense_s", 1.0)


def where() -> str:
    """What the figures were taken on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
