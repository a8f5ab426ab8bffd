"""Explanations that the lines offer, each with its weight."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose.facts import Exit, Facts
from isthmus.faults.diagnose.lines import Line
from isthmus.faults.diagnose.weights import DEPTH, EXPLAINS
from isthmus.faults.terms import FaultClass

PLAIN = frozenset(
    (
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "Exception",
        "IndexError",
        "KeyError",
        "LookupError",
        "NameError",
        "NotImplementedError",
        "RecursionError",
        "RuntimeError",
        "StopIteration",
        "SyntaxError",
        "TypeError",
        "UnboundLocalError",
        "ValueError",
        "ZeroDivisionError",
    )
)
"""Exceptions that say nothing of their reason: a fault of the program, where no other one is found."""
_SECOND_HAND = re.compile(
    r"^(?:ChildFailedError|RayTaskError\w*|ActorDiedError|RayActorError|DistBackendError|SystemExit|KeyboardInterrupt|"
    r"CalledProcessError|ProcessExitedException|ProcessRaisedException|BrokenPipeError|EOFError|SignalException|"
    r"ConnectionResetError|TimeoutError|CancelledError|SubprocessError|SubprocessException)$"
)
"""Raised where another process failed."""
_GENERIC_DEPTH = 2.5
_VICTIM = 0.35
"""What is left of the weight of an entry that is usually a victim."""
_EARLIEST = 0.9
_SURVIVED = 0.25
_EXPLAINED = 1.8
INCIDENT_S = 2 * 3600.0
"""Longer than the longest usual timeout of a collective: what is further apart is not of one incident."""
_MESSAGE_LINES = 25
"""So far below an exception its message may go on."""
_SIGNALS = {-4, -6, -7, -8, -9, -11, 132, 134, 135, 136, 137, 139}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One explanation, with all lines that speak for it, in order of time."""

    kind: FaultClass
    entry: str
    victim: bool
    generic: bool
    """It explains no more than that the program failed."""
    lines: tuple[Line, ...]
    survived: bool = False
    """Training went on after it."""
    weight: float = 0.0

    @property
    def first(self) -> Line:
        return self.lines[0]


def collect(
    lines: Sequence[Line], facts: Facts, entries: Mapping[str, Entry], survived: frozenset[int]
) -> list[Candidate]:
    """`lines` in order of time; `survived`: places in it after which training went on. Heaviest first."""
    hits: dict[tuple[str, bool], list[tuple[int, Line]]] = defaultdict(list)
    for place, line in enumerate(lines):
        for entry in line.entries:
            if not _is_talk(line) and not _was_ended(line, facts):
                hits[entry, place in survived].append((place, line))
    found = []
    for (name, outlived), at in hits.items():
        entry = entries[name]
        generic = entry.kind == "user_code" and all(_is_plain(line, facts) for _, line in at)
        found.append(
            Candidate(
                kind=entry.kind,
                entry=name,
                victim=entry.victim,
                generic=generic,
                lines=tuple(line for _, line in at),
                survived=outlived,
            )
        )
    found += _of_exceptions(lines, facts, entries)
    found += _of_journal(lines)
    found += _of_exits(facts, entries, found)
    if not found and (failed := tuple(line for line in lines if _FAILED.search(line.text))):
        found.append(Candidate(kind="user_code", entry="", victim=True, generic=True, lines=failed[:8]))
    order = {id(line): place for place, line in enumerate(lines)}
    return _weighed(found, order, facts)


_FAILED = re.compile(r"Traceback \(most recent call last\)|Fatal Python error: ")
_TALK = re.compile(r"\bpotential root causes?\b|\bhint:|possible (?:cause|reason)s? ", re.IGNORECASE)


def _is_talk(line: Line) -> bool:
    """A line that lists what it might have been proves none of it."""
    return bool(_TALK.search(line.text)) and len(line.text) > 300


_END = re.compile(r"\bexitcode|\bSignal \d+ \(SIG|closing signal|via signal")


def _was_ended(line: Line, facts: Facts) -> bool:
    """A process that the launcher ended, because another one had failed."""
    return line.pid in facts.closed and bool(_END.search(line.text))


def _is_plain(line: Line, facts: Facts) -> bool:
    return any(each.line is line and each.kind in PLAIN for each in facts.raised)


def _of_exceptions(lines: Sequence[Line], facts: Facts, entries: Mapping[str, Entry]) -> list[Candidate]:
    """The first exception of each rank that no entry describes: the first of a chain is its root."""
    seen: set[int | None] = set()
    found = []
    places = {id(line): place for place, line in enumerate(lines)}
    for each in sorted(facts.raised, key=lambda each: places.get(id(each.line), 0)):
        if each.line.rank in seen or _SECOND_HAND.match(each.kind):
            continue
        seen.add(each.line.rank)
        if any(entries[name].kind != "user_code" for name in each.line.entries) or _told_below(
            each.line, lines
        ):
            continue
        found.append(
            Candidate(
                kind="user_code", entry=next(iter(each.line.entries), ""), victim=False, generic=True,
                lines=(each.line,),
            )
        )  # fmt: skip
    return found


_JOURNAL = re.compile(r"^isthmus fault (\w+): ")
_JOURNAL_KINDS: dict[str, FaultClass] = {
    "rank_died": "crash",
    "client_died": "crash",
    "server_died": "crash",
    "disk_full": "disk_full",
    "link_down": "network",
    "server_lost": "network",
    "checkpoint_damaged": "ckpt_corrupt",
    "snapshot_damaged": "ckpt_corrupt",
    "torn_log": "ckpt_corrupt",
}


def _of_journal(lines: Sequence[Line]) -> list[Candidate]:
    """Faults that a run of isthmus noticed itself, where no entry says more."""
    told: dict[FaultClass, list[Line]] = defaultdict(list)
    for line in lines:
        said = _JOURNAL.match(line.text)
        if said and not line.entries and said[1] in _JOURNAL_KINDS:
            told[_JOURNAL_KINDS[said[1]]].append(line)
    return [
        Candidate(kind=kind, entry="", victim=False, generic=False, lines=tuple(at))
        for kind, at in told.items()
    ]


def _told_below(raised: Line, lines: Sequence[Line]) -> bool:
    """The message of an exception may go on for some lines, and say there what an entry describes."""
    return any(
        line.entries
        and line.file == raised.file
        and line.rank == raised.rank
        and 0 < line.number - raised.number <= _MESSAGE_LINES
        for line in lines
    )


def _of_exits(facts: Facts, entries: Mapping[str, Entry], found: Sequence[Candidate]) -> list[Candidate]:
    """A process that a signal ended crashed, whatever the catalogue knows of it."""
    died = [each for each in facts.exits if each.code in _SIGNALS]
    if not died:
        return []
    died.sort(key=lambda each: (not each.first, each.code in (-6, 134)))
    hit = next((name for each in died for name in each.line.entries if entries[name].kind == "crash"), "")
    lines = tuple(_with_rank(each) for each in died)
    timed_out = {each.rank for each in facts.timeouts}
    aborted = all(each.code in (-6, 134) for each in died)
    watchdog = aborted and (bool(timed_out) or any(each.kind == "hang" for each in found))
    return [Candidate(kind="crash", entry=hit, victim=watchdog, generic=False, lines=lines)]


def _with_rank(each: Exit) -> Line:
    return each.line if each.rank is None else msgspec.structs.replace(each.line, rank=each.rank)


def _last_incident(found: Sequence[Candidate]) -> list[Candidate]:
    """Without those that were last seen long before the rest: they ended something else, or nothing."""
    ends = [each.lines[-1].wall_s for each in found]
    last_s = max((end for end in ends if end is not None), default=0.0)
    return [each for each, end in zip(found, ends, strict=True) if end is None or end >= last_s - INCIDENT_S]


def _weighed(found: Sequence[Candidate], order: Mapping[int, int], facts: Facts) -> list[Candidate]:
    """Deep before shallow; among equals the earlier, and what the launcher saw to fail first."""
    own = _last_incident([each for each in found if not each.victim and not each.survived])
    firsts = [order.get(id(each.first), 1 << 40) for each in own]
    earliest = min(firsts, default=-1)
    leading = facts.first_exit.rank if facts.first_exit else None
    seen = {each.kind for each in own}
    explained = {kind for deep in seen if deep in EXPLAINS for kind in EXPLAINS[deep]}
    weighed = []
    for each in found:
        weight = _GENERIC_DEPTH if each.generic else DEPTH[each.kind]
        if not each.victim and order.get(id(each.first), 1 << 41) == earliest:
            weight += _EARLIEST
        if each.kind in explained:
            weight -= _EXPLAINED
        if leading is not None and any(line.rank == leading for line in each.lines):
            weight += 0.3
        if each.victim:
            weight *= _VICTIM
        if each.survived:
            weight *= _SURVIVED
        weighed.append(msgspec.structs.replace(each, weight=weight))
    return sorted(weighed, key=lambda each: (-each.weight, order.get(id(each.first), 1 << 40), each.entry))
