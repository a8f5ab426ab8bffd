"""Suspects that need not have written a line: read from what the others say of collectives and of waiting."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set

import msgspec

from isthmus.faults.diagnose.facts import Facts, Timeout
from isthmus.faults.diagnose.lines import Line
from isthmus.faults.terms import FaultClass


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to blame by the account of the others."""

    kind: FaultClass
    culprits: tuple[int, ...]
    why: str
    lines: tuple[Line, ...]
    """What it was read from."""
    victims: frozenset[int]


def of_collectives(facts: Facts) -> Picture | None:
    """From collectives that timed out, in the group where most ranks tell of one."""
    groups: dict[str, dict[int, Timeout]] = defaultdict(dict)
    for each in facts.timeouts:
        if each.rank is not None:
            groups[each.group].setdefault(each.rank, each)
    for told in sorted(groups.values(), key=lambda told: (-len(told), min(told))):
        found = _other_op(told) or _lower(told) or _absent(told, facts)
        if found:
            return found
    told = next(iter(groups.values()), {})
    lines = tuple(each.line for each in told.values()) or tuple(each.line for each in facts.timeouts)
    if not lines:
        return None
    why = "a collective timed out, and nothing tells which rank did not come"
    return Picture(kind="hang", culprits=(), why=why, lines=lines, victims=frozenset(told))


def _other_op(told: dict[int, Timeout]) -> Picture | None:
    """One rank runs another operation at the same place, or with another size."""
    by_seq: dict[int, dict[int, Timeout]] = defaultdict(dict)
    for rank, each in told.items():
        by_seq[each.seq][rank] = each
    for seq, at in sorted(by_seq.items()):
        kinds = {rank: f"{each.op} {_size(each)}".strip() for rank, each in at.items()}
        if len(set(kinds.values())) < 2:
            continue
        common, number = Counter(kinds.values()).most_common(1)[0]
        odd = tuple(sorted(rank for rank, kind in kinds.items() if kind != common))
        if 2 * number <= len(kinds):
            odd = ()
        said = ", ".join(f"rank {rank} {kind}" for rank, kind in sorted(kinds.items())[:8])
        return Picture(
            kind="desync",
            culprits=odd,
            why=f"at sequence number {seq} ranks ran different operations: {said}",
            lines=tuple(each.line for each in at.values()),
            victims=frozenset(at) - set(odd),
        )
    return None


def _size(each: Timeout) -> str:
    """Only where all ranks have to pass the same."""
    equal = each.op.upper() in ("ALLREDUCE", "BROADCAST", "_ALLGATHER_BASE", "_REDUCE_SCATTER_BASE")
    return each.size if equal else ""


def _lower(told: dict[int, Timeout]) -> Picture | None:
    """Some wait in an older collective than the rest: they are behind."""
    newest = max(each.seq for each in told.values())
    behind = tuple(sorted(rank for rank, each in told.items() if each.seq < newest))
    if not behind or 2 * len(behind) > len(told):
        return None
    ops = {each.op for each in told.values()}
    return Picture(
        kind="desync" if len(ops) > 1 else "hang",
        culprits=behind,
        why=f"others were in collective {newest}, "
        + ", ".join(f"rank {rank} in {told[rank].seq}" for rank in behind[:8]),
        lines=tuple(each.line for each in told.values()),
        victims=frozenset(told) - set(behind),
    )


def _absent(told: dict[int, Timeout], facts: Facts) -> Picture | None:
    """All that tell are in the same collective: who tells nothing did not come."""
    if len(told) < 2:
        return None
    members = set(facts.members) | set(range(max(told) + 1))
    return _missing({rank: each.line for rank, each in told.items()}, members)


def _missing(told: Mapping[int, Line], members: Set[int], kind: FaultClass = "hang") -> Picture | None:
    """None where nobody is missing, or as many as are not."""
    missing = tuple(sorted(members - set(told)))
    if not missing or 2 * len(missing) > len(members):
        return None
    number = "ranks" if len(missing) > 1 else "rank"
    return Picture(
        kind=kind,
        culprits=missing,
        why=f"{len(told)} ranks tell of trouble with others, {number} {', '.join(map(str, missing[:8]))} not",
        lines=tuple(told.values()),
        victims=frozenset(told),
    )


def of_absence(suffered: Sequence[Line], others: Set[int], facts: Facts, kind: FaultClass) -> Picture | None:
    """From lines that tell of waiting too long, or of a peer that is gone, whatever library writes them: who
    has none did not come, or left without a word. `others` suffered in another way, and are not suspected.
    """
    told: dict[int, Line] = {}
    for line in suffered:
        if line.rank is not None:
            told.setdefault(line.rank, line)
    if len(told) < 2:
        return None
    return _missing(told, (set(facts.members) | set(range(max(told) + 1))) - others, kind)


def of_waits(facts: Facts) -> Picture | None:
    """Who is waited for and waits for nobody. A cycle names no one."""
    named = Counter(wait.on for wait in facts.waits)
    if not named:
        return None
    waiters = {wait.waiter for wait in facts.waits if wait.waiter is not None}
    leaves = sorted((rank for rank in named if rank not in waiters), key=lambda rank: (-named[rank], rank))
    lines = tuple(wait.line for wait in facts.waits)
    if not leaves:
        why = "ranks wait for each other in a circle"
        return Picture(kind="hang", culprits=(), why=why, lines=lines, victims=frozenset(waiters))
    why = f"others wait for rank {leaves[0]}, which tells of no waiting"
    return Picture(kind="hang", culprits=tuple(leaves[:4]), why=why, lines=lines, victims=frozenset(waiters))


def of_deaths(facts: Facts) -> Picture | None:
    """Whom others call lost."""
    named = Counter(each.on for each in facts.dead)
    if not named:
        return None
    ranked = sorted(named, key=lambda rank: (-named[rank], rank))
    return Picture(
        kind="crash",
        culprits=tuple(ranked[:1]) if len(ranked) == 1 or named[ranked[0]] > named[ranked[1]] else (),
        why=f"others lost rank {', '.join(map(str, ranked[:8]))}",
        lines=tuple(each.line for each in facts.dead),
        victims=frozenset(),
    )


def odd_setting(facts: Facts, failed: Iterable[int]) -> int | None:
    """The one rank whose environment differs from all others', where it is not the one that failed."""
    odd: Counter[int] = Counter()
    everyone, own = facts.ranks, set(failed)
    for values in facts.settings.values():
        silent = everyone - frozenset[int]().union(*values.values())
        camps: Sequence[frozenset[int]] = [*values.values(), silent] if silent else list(values.values())
        single = [next(iter(ranks)) for ranks in camps if len(ranks) == 1]
        rest = [rank for rank in single if rank not in own]
        if len(camps) > 1 and len(rest) == 1:
            odd[rest[0]] += 1
    return odd.most_common(1)[0][0] if odd else None
