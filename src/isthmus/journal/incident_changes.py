"""How faults, diagnoses, heals and steps open, fill in and end incidents. Pure; `troubles` calls this."""

from msgspec.structs import replace

from isthmus.journal import events
from isthmus.journal.incidents import CONDITIONS, UNKNOWN, Incident, is_rank, is_site, site_of_agent

LASTING = ("_died", "_down", "_left", "_full")
"""Ends of the kinds of faults that last until they are recovered from; others are moments, unless an agent
tells of them."""
OF_LINKS = frozenset({"config", "network_degraded"})
"""Conditions that a client tells of, and when they are over."""
FLAP_S = 2.0
"""Trouble that is back within this time is shown as one."""
LATE_S = 60.0
"""A diagnosis that comes no later than this after the recovery still belongs to it."""
TEXT, LINES = 500, 8
"""Characters of a text and lines of evidence that are kept."""
NOT_STOPPING = CONDITIONS | {"client_died", "link", "link_down"}
"""A site trains on with these; those that are no conditions pass by themselves."""

Changes = list[tuple[Incident | None, Incident]]
"""(as it was, as it is now); the first is None for a new one."""


def after_fault(kept: tuple[Incident, ...], event: events.Fault, lane: str) -> Changes:
    """A lasting fault, and any that an agent tells of, opens an incident, or belongs to one that is there."""
    lasts = event.kind.endswith(LASTING) or event.kind in OF_LINKS
    if not lasts and not site_of_agent(event.source):
        return []
    new = Incident(
        subject=event.subject,
        lane=lane,
        kind=event.kind,
        detail=_cut(event.detail),
        began_s=min(event.began_s, event.wall_s) or event.wall_s,
        detected_s=event.wall_s,
    )
    for old in reversed(kept):
        if old.subject != new.subject:
            continue
        is_same = old.kind == new.kind or (is_rank(old.subject) and not {old.kind, new.kind} & CONDITIONS)
        if old.is_open and is_same:
            return [(old, _merged(old, new))]
        if not old.is_open and event.began_s and old.began_s - FLAP_S <= event.began_s < old.resumed_s:
            return []  # told late, by a source whose clock is behind
        flaps = lasts and not old.is_open and not old.done and event.wall_s - old.resumed_s < FLAP_S
        if flaps and old.kind == new.kind:
            return [(old, replace(old, resumed_s=0.0, times=old.times + 1))]
    return [(None, new)]


def _merged(old: Incident, new: Incident) -> Incident:
    """One rank is in trouble once at a time, whatever is told of it: hung, then killed."""
    began_s = min(old.began_s, new.began_s)
    if old.kind == new.kind:
        return replace(old, began_s=began_s)
    if old.kind == old.fault_class:  # the diagnosis came first
        return replace(old, kind=new.kind, detail=new.detail, began_s=began_s)
    return replace(old, began_s=began_s, detail=_cut(f"{old.detail}; then {new.kind}: {new.detail}"))


def after_diagnosis(kept: tuple[Incident, ...], event: events.Diagnosed, lane: str) -> Changes:
    """The diagnosis of a subject's incident, or of all that a site has open where no rank is named."""
    suffered = set(event.victims) - {event.subject}
    of_subject = [old for old in kept if old.subject == event.subject and old.is_open]
    of_site = [
        old for old in kept
        if _is_of_site(old, event.subject) and old.is_open and not old.fault_class
        and old.subject not in suffered
    ]  # fmt: skip
    late = [
        old for old in kept
        if not old.is_open and event.wall_s - old.resumed_s < LATE_S
        and (old.subject == event.subject or (_is_of_site(old, event.subject) and not old.fault_class))
    ]  # fmt: skip
    changes: Changes = [(old, _diagnosed(old, event)) for old in of_subject or of_site or late[-1:]]
    if not changes:
        new = Incident(
            subject=event.subject,
            lane=lane,
            kind=event.fault_class or UNKNOWN,
            detail=_cut(event.cause),
            began_s=event.wall_s,
            detected_s=event.wall_s,
        )
        changes = [(None, _diagnosed(new, event))]
    return changes + [
        (old, replace(old, fault_class="secondary", cause=f"failed because of {event.subject}",
                      diagnosed_s=event.wall_s))
        for old in kept
        if old.is_open and old.subject in suffered and not old.fault_class
    ]  # fmt: skip


def _is_of_site(old: Incident, site: str) -> bool:
    """Of the site or one of its ranks and nodes; `site` may be any subject."""
    return is_site(site, old.lane) and (is_rank(old.subject) or is_site(old.subject, old.lane))


def _diagnosed(old: Incident, event: events.Diagnosed) -> Incident:
    return replace(
        old,
        fault_class=event.fault_class or UNKNOWN,
        entry=event.entry,
        action=event.action,
        confidence=event.confidence,
        cause=_cut(event.cause),
        verify=_cut(event.verify),
        evidence=tuple(map(_cut, event.evidence[:LINES])),
        victims=tuple(map(_cut, event.victims[:LINES])),
        diagnosed_s=old.diagnosed_s if old.fault_class else event.wall_s,
    )


def after_heal(kept: tuple[Incident, ...], event: events.Healed) -> Changes | None:
    """What a heal ends: the incidents of its subjects, and all others that kept the site from training.

    None: it was told before.
    """
    resumed_s = event.resumed_s or event.wall_s
    told = event.site, event.generation, resumed_s
    if any(old.done and (old.lane, old.generation, old.resumed_s) == told for old in kept):
        return None
    ended = [old for old in kept if old.lane == event.site and _is_ended(old, event, resumed_s)]
    if not ended:
        new = Incident(
            subject=event.subjects[0] if event.subjects else event.site,
            lane=event.site,
            kind=event.kind,
            began_s=event.began_s or event.detected_s or resumed_s,
            detected_s=event.detected_s or resumed_s,
        )
        return [(None, _healed(new, event, is_first=True))]
    first = min(ended, key=lambda old: (old.kind in CONDITIONS, old.began_s))
    return [(old, _healed(old, event, is_first=old is first)) for old in ended]


def _is_ended(old: Incident, event: events.Healed, resumed_s: float) -> bool:
    named = old.subject in event.subjects
    if not old.is_open:  # told as recovered a moment before
        return named and not old.done and 0 < event.began_s <= old.resumed_s
    return old.began_s <= resumed_s and (named or _stops(old))


def _stops(old: Incident) -> bool:
    """It keeps its site from training."""
    is_of_group = is_rank(old.subject) or is_site(old.subject, old.lane)
    return is_of_group and not NOT_STOPPING & {old.kind, old.fault_class}


def _healed(old: Incident, event: events.Healed, is_first: bool) -> Incident:
    """The agent's own times are the most exact ones of the fault that came first; others keep theirs."""
    began_s = min(old.began_s, event.began_s or old.began_s) if is_first else old.began_s
    detected_s = event.detected_s if is_first and event.detected_s >= began_s else old.detected_s
    diagnosed_s = event.diagnosed_s if event.diagnosed_s > event.detected_s else 0.0
    return replace(
        old,
        began_s=began_s,
        detected_s=detected_s,
        diagnosed_s=(diagnosed_s if is_first else 0.0) or old.diagnosed_s or diagnosed_s,
        regrouped_s=event.regrouped_s if event.regrouped_s >= began_s else 0.0,
        resumed_s=event.resumed_s or event.wall_s,
        done=event.kind or "healed",
        generation=event.generation,
        lost_steps=event.lost_steps,
    )


def after_step(kept: tuple[Incident, ...], site: str, started_s: float) -> Changes:
    """A whole step after a fault was found: what would have kept the site from training has passed."""
    return [
        (old, replace(old, resumed_s=started_s))
        for old in kept
        if old.is_open and old.lane == site and old.detected_s <= started_s and _stops(old)
    ]


def after_recovery(kept: tuple[Incident, ...], subject: str, kind: str, lane: str, at_s: float) -> Changes:
    """`kind` of a lane is over, and whatever the rank `subject` had; an empty kind: all of the lane."""
    return [
        (old, replace(old, resumed_s=max(at_s, old.began_s)))
        for old in kept
        if old.is_open
        and ((old.lane == lane and kind in ("", old.kind)) or (is_rank(subject) and old.subject == subject))
    ]


def kept_with(kept: tuple[Incident, ...], changes: Changes, most: int) -> tuple[Incident, ...]:
    """The incidents after the changes; of more than `most` the oldest are let go, open ones last."""
    became = {id(old): new for old, new in changes if old}
    found = [became.get(id(old), old) for old in kept] + [new for old, new in changes if old is None]
    while len(found) > most:
        found.pop(next((i for i, old in enumerate(found) if not old.is_open), 0))
    return tuple(found)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"
