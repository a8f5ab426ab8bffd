"""Who holds the others up, from the Flight Recorder dumps of all ranks.

Within a group all ranks enter the same collectives in the same order. A rank is *behind* where others of its
group have entered or finished a collective that it has not. One that is behind only because it waits itself,
in any group, for a rank that has not come is explained by that one. Those nobody explains are the culprits:
with groups nested in groups this follows the waiting to where it starts.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.faults.diagnose.dumps import Dump, Op
from isthmus.faults.terms import FaultClass


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the records say. Without culprits they name nobody."""

    kind: FaultClass
    culprits: tuple[int, ...]
    facts: dict[int, str]
    """Rank -> what it was behind in, or waited for."""
    waiting: tuple[int, ...] = ()
    """Ranks that wait for others."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where one rank stands in one group."""

    completed: int
    enqueued: int
    head: Op | None
    """The oldest collective that it has entered and not finished."""


Group = tuple[str, tuple[int, ...]]


def analyse(dumps: Sequence[Dump]) -> Found | None:
    """None where the records show nothing wrong."""
    standings = _standings(dumps)
    mismatch = _mismatch(dumps)
    if mismatch:
        return mismatch
    behind: dict[int, str] = {}
    waits: dict[int, set[int]] = defaultdict(set)
    labels = {name: label for dump in dumps for name, label in dump.labels.items()}
    for (name, ranks), by_rank in standings.items():
        for rank, fact in _behind(by_rank, labels.get(name, name)).items():
            behind.setdefault(rank, fact)
        _add_waits(waits, ranks, by_rank)
    _add_p2p_waits(waits, dumps)
    return _blame(behind, waits, {dump.rank for dump in dumps})


def _standings(dumps: Sequence[Dump]) -> dict[Group, dict[int, Standing]]:
    ops = {dump.rank: _by_group(dump) for dump in dumps}
    mixed = {op.group for dump in dumps for op in dump.ops if op.p2p}
    found: dict[Group, dict[int, Standing]] = defaultdict(dict)
    for dump in dumps:
        for name, ranks in dump.groups.items():
            status = dump.status.get(name) if name not in mixed else None
            standing = _standing(ops[dump.rank].get(name, []), status)
            if standing and len(ranks) > 1:
                found[name, ranks][dump.rank] = standing
    return found


def _by_group(dump: Dump) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = defaultdict(list)
    for op in dump.ops:
        if not op.p2p:
            found[op.group].append(op)
    return found


def _standing(ops: Sequence[Op], status: tuple[int, int] | None) -> Standing | None:
    pending = [op for op in ops if not op.done]
    if pending:
        head = min(pending, key=lambda op: op.seq)
        return Standing(completed=head.seq - 1, enqueued=max(op.seq for op in ops), head=head)
    if status and status[1] >= 0:
        return Standing(completed=status[0], enqueued=status[1], head=None)
    if ops:
        last = max(op.seq for op in ops)
        return Standing(completed=last, enqueued=last, head=None)
    return None


def _behind(by_rank: Mapping[int, Standing], label: str) -> dict[int, str]:
    completed = max(each.completed for each in by_rank.values())
    enqueued = max(each.enqueued for each in by_rank.values())
    found = {}
    for rank, each in by_rank.items():
        if each.completed < completed:
            found[rank] = f"{label}: completed up to {each.completed}, others up to {completed}"
        elif each.enqueued < enqueued:
            found[rank] = f"{label}: entered up to {each.enqueued}, others up to {enqueued}"
    return found


def _add_waits(waits: dict[int, set[int]], ranks: tuple[int, ...], by_rank: Mapping[int, Standing]) -> None:
    """A rank waits for those of its group that have not entered its oldest open collective. Ranks without a
    record count as not come where all that have one are in it and nobody got through.
    """
    for rank, standing in by_rank.items():
        if standing.head is None:
            continue
        seq = standing.head.seq
        late = {other for other, each in by_rank.items() if each.enqueued < seq}
        through = any(each.completed >= seq for each in by_rank.values())
        if not late and not through:
            late = set(ranks) - set(by_rank)
        waits[rank] |= late


def _add_p2p_waits(waits: dict[int, set[int]], dumps: Sequence[Dump]) -> None:
    """A rank whose oldest message goes to or comes from one that has nothing open waits for that one."""
    idle = {dump.rank for dump in dumps if all(op.done for op in dump.ops)}
    for dump in dumps:
        heads: dict[str, Op] = {}
        for op in dump.ops:
            if op.p2p and not op.done:
                heads.setdefault(op.group, op)
        for op in heads.values():
            peer = _peer(op, dump)
            if peer is not None and (peer in idle or peer not in {each.rank for each in dumps}):
                waits[dump.rank].add(peer)


def _peer(op: Op, dump: Dump) -> int | None:
    """'send 0->3' of a group's own numbering; where that is not one of the group, the numbers are ranks."""
    digits = op.name.replace("->", " ").replace("<-", " ").split()
    if len(digits) != 3 or not (digits[1].isdigit() and digits[2].isdigit()):
        return None
    me, other = int(digits[1]), int(digits[2])
    ranks = dump.groups.get(op.group, ())
    if me < len(ranks) and other < len(ranks) and ranks[me] == dump.rank:
        return ranks[other]
    return other if me == dump.rank else None


def _blame(behind: dict[int, str], waits: Mapping[int, set[int]], recorded: set[int]) -> Found | None:
    waited_for = Counter(rank for late in waits.values() for rank in late)
    suspects = {rank for rank in (*behind, *waited_for) if not waits.get(rank)}
    silent = {rank for rank in suspects if rank not in recorded}
    waiting = tuple(sorted(rank for rank, late in waits.items() if late))
    if suspects - silent and silent:
        suspects = {rank for rank in suspects if rank in behind or rank in silent}
    if not suspects:
        return Found(kind="hang", culprits=(), facts=behind, waiting=waiting) if behind or waiting else None
    facts = {
        rank: behind.get(rank)
        or ("left no flight record, and others wait for it" if rank in silent else "others wait for it")
        for rank in suspects
    }
    culprits = tuple(sorted(suspects, key=lambda rank: (-waited_for[rank], rank)))
    return Found(kind="hang", culprits=culprits, facts=facts, waiting=waiting)


def _mismatch(dumps: Sequence[Dump]) -> Found | None:
    """Ranks that entered another operation, or with other sizes, than the rest at the same place of a group.
    The oldest such place counts: all that comes after it is shifted.
    """
    places: dict[tuple[str, tuple[int, ...], int], dict[int, Op]] = defaultdict(dict)
    for dump in dumps:
        for op in dump.ops:
            if not op.p2p:
                places[op.group, dump.groups.get(op.group, ()), op.seq][dump.rank] = op
    odd = []
    for (group, _, seq), by_rank in places.items():
        key = {rank: _kind_of(op) for rank, op in by_rank.items()}
        if len(set(key.values())) > 1 and not all(op.done for op in by_rank.values()):
            odd.append((min(op.created_ns for op in by_rank.values()), group, seq, by_rank, key))
    if not odd:
        return None
    _, group, seq, by_rank, key = min(odd, key=lambda each: each[:3])
    common, num_common = Counter(key.values()).most_common(1)[0]
    culprits = tuple(sorted(rank for rank in key if key[rank] != common))
    if 2 * num_common <= len(key):
        culprits = ()
    facts = {
        rank: f"{group}: {by_rank[rank].name} {by_rank[rank].shape} at {seq}, others {common}" for rank in key
        if key[rank] != common
    }  # fmt: skip
    return Found(kind="desync", culprits=culprits, facts=facts, waiting=tuple(sorted(set(key) - set(facts))))


_EQUAL_SIZES = ("all_reduce", "allreduce", "broadcast", "_all_gather_base", "_reduce_scatter_base")
"""Others, such as scatter and gather, differ between root and rest."""


def _kind_of(op: Op) -> str:
    """What all ranks have to agree on."""
    name = op.name.lower()
    return f"{name} {op.shape}" if name in _EQUAL_SIZES else name
