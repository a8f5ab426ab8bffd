"""An incident: a fault from the moment it began to the moment training went on; its phases, and the tally."""

import msgspec
from msgspec.structs import replace

CLASSES = 64
"""Classes counted by name; further ones are 'other'."""
AGENT = "agent/"
"""Of an agent's source; the site follows."""
UNDIAGNOSED, UNKNOWN = "undiagnosed", "unknown"
"""Classes of what ended without a diagnosis, and of what a diagnosis could not name."""
PHASES = ("detect", "diagnose", "regroup", "resume")
CONDITIONS = frozenset({
    "advice", "config", "disk", "disk_full", "fail_slow", "network_degraded", "oom_device", "oom_host",
    "partition",
})  # fmt: skip
"""Kinds and classes that a site trains on with until somebody does something: a heal that does not name their
subject leaves them open, and how long they last says nothing about recoveries."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Trouble of one rank, server or link. Times are Unix seconds, 0 where not known; `resumed_s` is 0 while
    it is open. Those that one `Healed` ends share its generation, `lost_steps` and end."""

    subject: str
    lane: str
    """The site that the subject belongs to; the subject itself where it is none."""
    kind: str
    """Of the fault, as it was told."""
    detail: str = ""
    times: int = 1
    """How often it came back so soon that it is shown as one."""
    fault_class: str = ""
    """Of the diagnosis, as are `entry` to `victims`; empty until there is one."""
    entry: str = ""
    action: str = ""
    confidence: float = 0.0
    cause: str = ""
    verify: str = ""
    evidence: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()
    done: str = ""
    """What an agent did, of the ladder."""
    generation: int = 0
    lost_steps: int = 0
    began_s: float
    detected_s: float
    diagnosed_s: float = 0.0
    regrouped_s: float = 0.0
    resumed_s: float = 0.0

    @property
    def is_open(self) -> bool:
        return not self.resumed_s

    @property
    def is_counted(self) -> bool:
        """Under its class, which happens once: at its diagnosis, or when it ends without one."""
        return bool(self.fault_class or self.resumed_s or self.times > 1)


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an incident; `name`: 'detect', 'diagnose', 'regroup' or 'resume', what it ended with."""

    name: str
    start_s: float
    end_s: float


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Over all incidents, also those no longer kept. Sums of seconds are over those that are over."""

    count: int = 0
    closed: int = 0
    """Recoveries: those that are over, without conditions that a site trained on with."""
    total_s: float = 0.0
    detect_s: float = 0.0
    last_total_s: float = 0.0
    """Of the one that ended last."""
    lost_steps: int = 0
    """Once for each heal, however many incidents it ended."""
    by_class: dict[str, int] = {}
    """Never falls: of an incident under its first diagnosis, or as undiagnosed if it ended without one."""


def phases(incident: Incident, until_s: float = 0.0) -> list[Phase]:
    """One after the other from its beginning; of an open one the last lasts until `until_s`.

    A time that is not known, or that comes after a later one (a diagnosis made beside the healing), joins its
    phase to the next.
    """
    times = incident.detected_s, incident.diagnosed_s, incident.regrouped_s
    last_s = incident.resumed_s or max(until_s, incident.began_s, *times)
    marks: list[tuple[str, float]] = list(zip(PHASES, (*times, last_s), strict=True))
    told = [
        (name, at_s) for i, (name, at_s) in enumerate(marks) if at_s and not _overtaken(at_s, marks[i + 1 :])
    ]
    found: list[Phase] = []
    start_s = incident.began_s
    for name, at_s in told:
        end_s = max(start_s, at_s)
        found.append(Phase(name=name, start_s=start_s, end_s=end_s))
        start_s = end_s
    return found


def _overtaken(at_s: float, later: list[tuple[str, float]]) -> bool:
    return any(other_s and other_s < at_s for _, other_s in later)


def length_s(incident: Incident, phase: str) -> float | None:
    """None while it is not over, or where it is not known."""
    if phase == "resume" and incident.is_open:
        return None
    return next((found.end_s - found.start_s for found in phases(incident) if found.name == phase), None)


def total_s(incident: Incident) -> float | None:
    """From its beginning to the moment training went on; None while it is open."""
    return None if incident.is_open else max(0.0, incident.resumed_s - incident.began_s)


def counted(tally: Tally, old: Incident | None, new: Incident) -> Tally:
    """The tally after `old` became `new`; None: it is a new one."""
    by_class = tally.by_class
    if new.is_counted and not (old and old.is_counted):
        name = new.fault_class or UNDIAGNOSED
        name = name if name in by_class or len(by_class) < CLASSES else "other"
        by_class = {**by_class, name: by_class.get(name, 0) + 1}
    is_closed, was_closed = _is_recovery(new), bool(old and _is_recovery(old))
    now_s = (total_s(new) or 0.0) * is_closed
    before_s = (total_s(old) or 0.0) * was_closed if old else 0.0
    found_s = (length_s(new, "detect") or 0.0) * is_closed
    found_before_s = (length_s(old, "detect") or 0.0) * was_closed if old else 0.0
    return replace(
        tally,
        count=tally.count + (old is None),
        closed=tally.closed + is_closed - was_closed,
        total_s=tally.total_s + now_s - before_s,
        detect_s=tally.detect_s + found_s - found_before_s,
        last_total_s=now_s if is_closed else tally.last_total_s,
        by_class=by_class,
    )


def _is_recovery(incident: Incident) -> bool:
    return not incident.is_open and incident.kind not in CONDITIONS


def site_of_agent(source: str) -> str:
    """The site that an agent with this source minds; empty for any other source."""
    return source.removeprefix(AGENT) if source.startswith(AGENT) else ""


def is_rank(subject: str) -> bool:
    """Or a node of ranks."""
    return subject.startswith(("rank-", "node-"))


def is_site(subject: str, lane: str) -> bool:
    return subject in (lane, f"site {lane}")
