"""What a diagnosis says."""

import msgspec

from isthmus.faults.terms import Action, FaultClass


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that speaks for it: a line of a log, a fact of a flight record or of a probe page."""

    where: str
    """file:line, 'flight record of rank 3', 'page of rank 3'."""
    text: str
    rank: int | None = None
    wall_s: float | None = None
    """Unix seconds, where it is known."""
    entry: str = ""
    """Id of the catalogue entry that it hits; empty for what no entry describes."""


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "class"}):
    """One explanation of a failure. `class` in JSON."""

    kind: FaultClass | None
    rank: int | None
    """The rank that caused it; None where nothing names one."""
    place: str = ""
    """Node, device, link or address, where no rank is named."""
    entry: str = ""
    action: Action
    confidence: float
    """In [0, 1]."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The best explanation, what it rests on, and the next best one."""

    best: Suspicion
    cause: str
    verify: str
    """How to know that the action worked."""
    evidence: tuple[Evidence, ...]
    """In time order."""
    runner_up: Suspicion | None = None
    culprits: tuple[int, ...] = ()
    """All ranks that caused it, `best.rank` first."""
    victims: tuple[int, ...] = ()
    """Ranks that failed because another one did."""
