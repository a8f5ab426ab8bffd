"""The best explanation of what went wrong, from lines, facts and flight records."""

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose import silent
from isthmus.faults.diagnose.candidates import Candidate
from isthmus.faults.diagnose.facts import Facts
from isthmus.faults.diagnose.flight import Found
from isthmus.faults.diagnose.lines import Line, place_of
from isthmus.faults.diagnose.silent import Picture
from isthmus.faults.diagnose.weights import DEPTH, SILENT, safe_action
from isthmus.faults.diagnosis import Diagnosis, Evidence, Suspicion
from isthmus.faults.terms import FaultClass

MAX_EVIDENCE = 24
_NEXT_RANKS = 8
_MOMENT_S = 2.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to judge by."""

    candidates: Sequence[Candidate]
    facts: Facts
    entries: Mapping[str, Entry]
    flight: Found | None = None
    dumps: Mapping[int, str] = {}
    """Rank -> where its flight record is."""


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation before it is put in words."""

    kind: FaultClass
    entry: str
    weight: float
    lines: tuple[Line, ...]
    culprits: tuple[int, ...]
    why: str = ""
    generic: bool = False
    support: int = 0
    """How many independent accounts agree."""


def judge(case: Case) -> Diagnosis:
    """Total: without any explanation the class is None and people are told."""
    pictures = _pictures(case)
    guesses = [_of_candidate(each, case, pictures) for each in case.candidates]
    guesses += [_of_picture(each, case) for each in pictures]
    guesses.sort(key=lambda guess: -guess.weight)
    if not guesses:
        return _nothing()
    best = guesses[0]
    rest = [guess for guess in guesses[1:] if guess.kind != best.kind] or [
        guess for guess in guesses[1:] if guess.entry != best.entry
    ]
    second = rest[0] if rest else None
    confidence = _confidence(best, second)
    entry = case.entries.get(best.entry)
    return Diagnosis(
        best=_suspicion(best, confidence, case),
        cause=_cause(best, entry),
        verify=entry.verify if entry else "the run passes the step at which it failed",
        evidence=_evidence(best, second, pictures, case),
        runner_up=_suspicion(second, min(confidence, 1 - confidence) * 0.8, case) if second else None,
        culprits=best.culprits,
        victims=_victims(best, pictures, case),
    )


def _pictures(case: Case) -> list[Picture]:
    found = [silent.of_collectives(case.facts), silent.of_waits(case.facts), silent.of_deaths(case.facts)]
    if not any(each and each.culprits for each in found):
        found.append(_absence(case))
    if case.flight:
        found.insert(0, _flight_picture(case.flight, case))
    return [each for each in found if each]


def _absence(case: Case) -> Picture | None:
    waited = [line for each in case.candidates if each.kind == "hang" for line in each.lines]
    left = [line for each in case.candidates if each.kind == "crash" and each.victim for line in each.lines]
    waiters, losers = _ranks_of(waited), _ranks_of(left)
    found = silent.of_absence(waited, losers - waiters, case.facts, "hang")
    if found or any(not each.victim for each in case.candidates):
        return found
    return silent.of_absence(left, waiters - losers, case.facts, "crash")


def _ranks_of(lines: Sequence[Line]) -> set[int]:
    return {line.rank for line in lines if line.rank is not None}


def _flight_picture(found: Found, case: Case) -> Picture:
    lines = tuple(
        Line(file=case.dumps.get(rank, f"flight record of rank {rank}"), number=0, text=fact, rank=rank)
        for rank, fact in sorted(found.facts.items())
    )
    named = ", ".join(map(str, found.culprits[:_NEXT_RANKS]))
    why = f"by the flight records the others wait for rank {named}" if named else "ranks wait for each other"
    return Picture(
        kind=found.kind, culprits=found.culprits, why=why, lines=lines, victims=frozenset(found.waiting)
    )


def _of_candidate(each: Candidate, case: Case, pictures: Sequence[Picture]) -> Guess:
    accused = next((picture.culprits for picture in pictures if picture.culprits), ())
    culprits, why = _own_ranks(each, case), ""
    if each.kind == "config" and not each.victim:
        failed = {line.rank for line in each.lines if line.rank is not None}
        odd = silent.odd_setting(case.facts, failed)
        culprits, why = ((odd,), f"only rank {odd} has this setting") if odd is not None else (culprits, why)
    if each.kind in SILENT and (each.victim or each.kind in ("hang", "rendezvous", "network_init")):
        culprits = accused
        why = next((picture.why for picture in pictures if picture.culprits), "")
    support = sum(bool(set(culprits) & set(picture.culprits)) for picture in pictures)
    if case.facts.first_exit and case.facts.first_exit.rank in culprits:
        support += 1
    weight = each.weight + 0.4 * bool(support)
    return Guess(
        kind=each.kind, entry=each.entry, weight=weight, lines=each.lines, culprits=culprits, why=why,
        generic=each.generic or each.victim or each.survived, support=support,
    )  # fmt: skip


def _own_ranks(each: Candidate, case: Case) -> tuple[int, ...]:
    """The rank that tells of it first; where no line names one, whom the launcher saw fail first."""
    first = case.facts.first_exit
    told = [line for line in each.lines if line.rank is not None]
    if told:
        seen_first = [line for line in told if first and line.rank == first.rank]
        rank = (seen_first if seen_first and _at_once(told[0], seen_first[0]) else told)[0].rank
        return () if rank is None else (rank,)
    if each.victim:
        return ()
    if first and first.rank is not None and first.code not in (0, -15):
        return (first.rank,)
    return _by_device(each, case) or _by_role(each, case)


def _at_once(one: Line, other: Line) -> bool:
    """Ranks that print the same within moments do so in any order: the launcher knows who was first."""
    return one.wall_s is None or other.wall_s is None or abs(one.wall_s - other.wall_s) < _MOMENT_S


def _by_role(each: Candidate, case: Case) -> tuple[int, ...]:
    """Where a program's log tells of no ranks, who reads and writes its checkpoints is the first one."""
    program = any(line.text.startswith("Traceback") or _is_exception(line, case) for line in each.lines)
    if case.facts.ranks or not program or each.kind not in ("disk_full", "ckpt_corrupt"):
        return ()
    return (0,)


def _is_exception(line: Line, case: Case) -> bool:
    return any(raised.line.where == line.where for raised in case.facts.raised)


def _by_device(each: Candidate, case: Case) -> tuple[int, ...]:
    """The device's number, where nothing tells ranks and all is of one node: launchers count alike."""
    nodes = {line.node for line in each.lines if line.node}
    devices = [line.device for line in each.lines if line.device is not None]
    if not devices and len(case.facts.devices) == 1:
        devices = list(case.facts.devices)
    if not devices or len(nodes) > 1 or (case.facts.ranks and each.kind != "oom_device"):
        return ()
    return (devices[0],) if each.kind in ("oom_device", "device_state", "device_fault", "ecc") else ()


def _of_picture(picture: Picture, case: Case) -> Guess:
    """A desync is certain where ranks tell of it; a hang explains only what nothing deeper does."""
    weight = DEPTH[picture.kind] * (1.0 if picture.kind == "desync" else 0.6)
    if picture.culprits:
        weight += 0.3
    entry = next(
        (each.entry for each in case.candidates if each.kind == picture.kind),
        next((name for line in picture.lines for name in line.entries), ""),
    )
    return Guess(
        kind=picture.kind, entry=entry, weight=weight, lines=picture.lines, culprits=picture.culprits,
        why=picture.why, generic=not picture.culprits,
    )  # fmt: skip


def _confidence(best: Guess, second: Guess | None) -> float:
    """Coarse: how much the explanation covers, whether accounts agree, how close the next one comes."""
    sure = 0.45 if best.generic else 0.75
    sure += 0.05 * min(best.support, 3) + (0.05 if best.culprits else -0.05)
    if second and not second.generic and second.kind != best.kind:
        sure -= 0.25 * max(0.0, 1 - (best.weight - second.weight) / 1.5)
    return round(min(0.95, max(0.1, sure)), 2)


def _suspicion(guess: Guess, confidence: float, case: Case) -> Suspicion:
    entry = case.entries.get(guess.entry)
    wanted = entry.action if entry and entry.kind == guess.kind else None
    rank = guess.culprits[0] if guess.culprits else None
    return Suspicion(
        kind=guess.kind,
        rank=rank,
        place=next((place for line in guess.lines if (place := place_of(line))), "") if rank is None else "",
        entry=guess.entry,
        action="alert_human" if _unfounded(guess) else safe_action(guess.kind, wanted, confidence),
        confidence=round(confidence, 2),
    )


def _unfounded(guess: Guess) -> bool:
    """Only others' account of a crash, and nobody to blame: the program itself may be wrong."""
    return guess.generic and not guess.culprits and guess.kind in ("crash", "secondary", "comm_error")


def _cause(best: Guess, entry: Entry | None) -> str:
    said = entry.cause if entry and entry.kind == best.kind else best.lines[0].text.strip()[:300]
    return f"{said} ({best.why})" if best.why else said


def _evidence(
    best: Guess, second: Guess | None, pictures: Sequence[Picture], case: Case
) -> tuple[Evidence, ...]:
    lines: dict[int, Line] = {}
    sources = [best.lines[:8], *(picture.lines[:8] for picture in pictures)]
    sources += [tuple(each.line for each in case.facts.exits[:4]), second.lines[:3] if second else ()]
    for line in (line for source in sources for line in source):
        if len(lines) < MAX_EVIDENCE:
            lines.setdefault(id(line), line)
    unique = {(line.where, line.text): line for line in lines.values()}.values()
    timed = sorted(unique, key=lambda line: (line.wall_s is None, line.wall_s or 0.0, line.file, line.number))
    return tuple(
        Evidence(
            where=line.where,
            text=line.text.strip()[:400],
            rank=line.rank,
            wall_s=line.wall_s,
            entry=line.entries[0] if line.entries else "",
        )
        for line in timed
    )


def _victims(best: Guess, pictures: Sequence[Picture], case: Case) -> tuple[int, ...]:
    named = {rank for picture in pictures for rank in picture.victims}
    named |= {each.rank for each in case.facts.exits if each.code == -15 and each.rank is not None}
    named |= {
        line.rank for each in case.candidates if each.victim for line in each.lines if line.rank is not None
    }
    return tuple(sorted(named - set(best.culprits)))


def _nothing() -> Diagnosis:
    unknown = Suspicion(kind=None, rank=None, action="alert_human", confidence=0.0)
    return Diagnosis(best=unknown, cause="no known fault was found", verify="", evidence=())
