"""faults.yaml: which faults a drill makes, and when. The same file and seed give the same drill."""

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from isthmus.errors import InputError
from isthmus.faults.inject.kinds import KINDS, KindName, Place, refusal, value_of
from isthmus.spec.build import Problem
from isthmus.spec.document import Key, dotted, read_document
from isthmus.spec.load import finish
from isthmus.spec.ranges import AtLeast0, AtLeast1, NonNegative, Positive
from isthmus.spec.suggest import nearest

MAX_PLANNED = 100_000

OrNone = Annotated[float, Meta(ge=-1)]


class FaultSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault, once or again and again. Without a time it happens at once."""

    kind: KindName
    """What happens, see the kinds."""
    rank: Annotated[int, Meta(ge=-1)] = -1
    """Of the site; -1: drawn."""
    site: str = ""
    """Where; may be left out where there is one site, or `--site` names it."""
    at_step: Annotated[int, Meta(ge=-1)] = -1
    """Once so many optimizer steps are done; -1: not by steps."""
    at_s: OrNone = -1.0
    """Seconds after the schedule was given; -1: not by time."""
    every_s: NonNegative = 0.0
    """Again and again after so many seconds, `times` times; 0: once."""
    jitter_s: NonNegative = 0.0
    """Each of these comes up to so much earlier or later, as drawn."""
    at: Place = ""
    """'saving' or 'recovering': the next one after that time."""
    value: float = 0.0
    """What the kind takes; 0: its default."""
    times: AtLeast1 = 1
    """How often, with `every_s`."""
    seed: AtLeast0 = 0
    """For other draws than the schedule's."""


class RandomSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many of a kind, at instants that are drawn evenly."""

    kind: KindName = "kill"
    """What happens."""
    count: AtLeast1
    """How often."""
    within_s: Positive
    """Seconds in which all of them come."""
    from_s: NonNegative = 0.0
    """Seconds after the schedule was given, at which that begins."""
    ranks: list[AtLeast0] = []
    """Of the site, to draw from; empty: all."""
    site: str = ""
    """Where; may be left out where there is one site, or `--site` names it."""
    at: Place = ""
    """'saving' or 'recovering': the next one after each instant."""
    value: float = 0.0
    """What the kind takes; 0: its default."""
    seed: AtLeast0 = 0
    """For other draws than the schedule's."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of faults.yaml."""

    seed: AtLeast0 = 0
    """Of all that is drawn."""
    faults: list[FaultSpec] = []
    """One by one."""
    random: list[RandomSpec] = []
    """By number."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One fault as it will be asked for."""

    kind: KindName
    rank: int
    site: str = ""
    at_step: int = -1
    at_s: float = -1.0
    at: Place = ""
    value: float = 0.0


def load_schedule(path: Path, num_ranks: Mapping[str, int] | None = None) -> Schedule:
    """The schedule in `path`. NotFoundError if there is no file; InputError, with all problems, each with
    its line and remedy.

    Args:
        num_ranks: of each site; '' is the one that is meant where none is named. None: not checked.
    """
    return finish(read_document(path), Schedule, lambda schedule: _check(schedule, num_ranks))


def expand(schedule: Schedule, seed: int, world_size: int) -> list[Planned]:
    """Every single fault, in the order of their times, those by step first. The same arguments give the same
    faults; another entry more or less changes nothing of the rest.

    Raises InputError if a rank is not below `world_size`.
    """
    planned: list[Planned] = []
    for index, entry in enumerate(schedule.faults):
        draws = random.Random(f"faults {index} {seed} {entry.seed}")
        ranks = range(world_size) if entry.rank < 0 else [_known(entry.rank, world_size)]
        planned += [
            Planned(
                kind=entry.kind, rank=draws.choice(ranks), site=entry.site, at_step=entry.at_step, at_s=at_s,
                at=entry.at, value=_value(entry),
            )
            for at_s in _instants(entry, draws)
        ]  # fmt: skip
    for index, entry in enumerate(schedule.random):
        draws = random.Random(f"random {index} {seed} {entry.seed}")
        ranks = [_known(rank, world_size) for rank in entry.ranks] or range(world_size)
        planned += [
            Planned(
                kind=entry.kind, rank=draws.choice(ranks), site=entry.site, at=entry.at, value=_value(entry),
                at_s=round(entry.from_s + draws.uniform(0.0, entry.within_s), 3),
            )
            for _ in range(entry.count)
        ]  # fmt: skip
    return sorted(planned, key=lambda fault: (fault.at_s, fault.at_step))


def _instants(entry: FaultSpec, draws: random.Random) -> Iterator[float]:
    """Seconds, -1 where time says nothing."""
    for turn in range(entry.times):
        if not entry.every_s:
            yield entry.at_s
            continue
        first_s = entry.at_s if entry.at_s >= 0 else entry.every_s
        late_s = draws.uniform(-entry.jitter_s, entry.jitter_s)
        yield round(max(0.0, first_s + turn * entry.every_s + late_s), 3)


def _value(entry: FaultSpec | RandomSpec) -> float:
    return value_of(KINDS[entry.kind], entry.value)


def _known(rank: int, world_size: int) -> int:
    if rank >= world_size:
        raise InputError(
            f"there is no rank {rank} among {world_size}", where="faults", hint=_below(world_size)
        )
    return rank


def _below(world_size: int) -> str:
    return f"ranks are counted from 0 to {world_size - 1}"


def _check(schedule: Schedule, num_ranks: Mapping[str, int] | None) -> Iterator[Problem]:
    total = sum(entry.times for entry in schedule.faults) + sum(entry.count for entry in schedule.random)
    if not total:
        yield Problem((), "no faults", "give a list under `faults:` or `random:`")
    if total > MAX_PLANNED:
        yield Problem((), f"{total} faults are too many", f"at most {MAX_PLANNED}")
    for index, entry in enumerate(schedule.faults):
        key = ("faults", index)
        yield from _check_times(entry, key)
        ranks = [("rank", entry.rank)] if entry.rank >= 0 else []
        yield from _check_entry(entry, key, ranks, num_ranks)
    for index, entry in enumerate(schedule.random):
        ranks = [("ranks", rank) for rank in entry.ranks]
        yield from _check_entry(entry, ("random", index), ranks, num_ranks)


def _check_times(entry: FaultSpec, key: Key) -> Iterator[Problem]:
    name = dotted(key)
    if entry.at_step >= 0 and (entry.at_s >= 0 or entry.every_s):
        other = "every_s" if entry.every_s else "at_s"
        yield Problem((*key, other), f"{name}: at_step and {other} together", "leave one of them out")
    if entry.times > 1 and not entry.every_s:
        hint = "say how far apart with every_s"
        yield Problem((*key, "times"), f"{name}: {entry.times} times at once", hint)
    if entry.jitter_s and entry.jitter_s > entry.every_s:
        hint = f"at most every_s, {entry.every_s:g}" if entry.every_s else "give every_s too"
        yield Problem((*key, "jitter_s"), f"{name}: jitter_s {entry.jitter_s:g} is too much", hint)


def _check_entry(
    entry: FaultSpec | RandomSpec,
    key: Key,
    ranks: Iterable[tuple[str, int]],
    num_ranks: Mapping[str, int] | None,
) -> Iterator[Problem]:
    name = dotted(key)
    if fault := _impossible(entry):
        field, why, hint = fault
        yield Problem((*key, field), f"{name}: {why}", hint)
    if num_ranks is None:
        return
    if entry.site not in num_ranks:
        named = [site for site in num_ranks if site]
        hint = nearest(entry.site, named) or f"the sites are {', '.join(named)}"
        what = f"there is no site '{entry.site}'" if entry.site else "which site is not said"
        yield Problem((*key, "site"), f"{name}: {what}", hint)
        return
    for field, rank in ranks:
        if rank >= num_ranks[entry.site]:
            yield Problem((*key, field), f"{name}: there is no rank {rank}", _below(num_ranks[entry.site]))


def _impossible(entry: FaultSpec | RandomSpec) -> tuple[str, str, str] | None:
    """(field, why, remedy) where the kind does not go with the rest."""
    kind = KINDS[entry.kind]
    if why := refusal(entry.kind, entry.value):
        return "value" if entry.value else "kind", why, kind.value or "leave the value out"
    if why := refusal(entry.kind, entry.value, entry.at):
        return "at", why, f"these can: {', '.join(each.name for each in KINDS.values() if each.roams)}"
    if isinstance(entry, FaultSpec) and (why := refusal(entry.kind, entry.value, at_step=entry.at_step)):
        return "at_step", why, "use at_s"
    return None
