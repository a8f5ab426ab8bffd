"""Which events are worth waking somebody for: pure, so that the webhook, the status and the report agree."""

from typing import Literal

import msgspec

from isthmus.journal import events
from isthmus.journal.events import AnyEvent
from isthmus.journal.incidents import UNKNOWN, site_of_agent

Level = Literal["critical", "warning", "info"]

CLEAN_LEAVES = frozenset({"", "budget", "done", "drained", "finished", "left", "stopped"})
"""Reasons of SiteLeft that are no trouble."""
REPEAT_S = 60.0
"""An alert of the same kind and subject within this time is the same alert."""
_CRITICAL_FAULTS = frozenset({"disk_full", "poisoned", "server_died", "site_died"})

SHOWN = 4
"""Ranks named in a text; of more, the number."""
_FOR_A_PERSON = frozenset({"alert_human", "fix_config"})
_BY_ITSELF = frozenset({"retry", "restart_rank", "wait"})
"""Actions after which nothing is left for a person to do."""
WHAT_NEXT = {
    "retry": "The same is tried again, nothing is restarted. You: nothing, unless it comes back.",
    "restart_rank": "A new process takes the rank's place, on its node. You: nothing, unless it comes back.",
    "replace_node": "A spare takes the node's place, where there is one. You: take the node out of "
    "service and have it tested.",
    "rollback": "The site goes back to a checkpoint before it. You: see that the loss goes on as before.",
    "shrink": "The site trains on without it, more slowly. You: bring a replacement.",
    "quarantine": "The part is taken out and not used again. You: test it before it returns.",
    "fix_config": "It would fail again: a person has to change the program, its settings or its data. You: "
    "mend it, then run the same command again; it resumes.",
    "wait": "It passes by itself. You: nothing, unless it lasts.",
    "alert_human": "The system may do nothing about it alone. You: look at it now.",
}
"""What is done for each action of a diagnosis, and what a person does next."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """`subject` is the site, rank or link it is about; `wall_s` is Unix time."""

    wall_s: float
    level: Level
    kind: str
    subject: str
    text: str
    fault_class: str = ""
    """Of a diagnosis, as are `entry` and `action`; `action` of a heal is what was done."""
    entry: str = ""
    action: str = ""
    times: int = 1
    last_s: float = 0.0
    """When it was said for the last time, if more than once."""


def alert_of(event: AnyEvent) -> Alert | None:
    """The alert this event raises; None for the everyday ones."""
    match event:
        case events.Diagnosed():
            return _diagnosed(event)
        case events.Healed():
            return _healed(event)
    found = _describe(event)
    if found is None:
        return None
    level, kind, subject, text = found
    return Alert(wall_s=event.wall_s, level=level, kind=kind, subject=subject, text=text)


def add_alert(alerts: tuple[Alert, ...], new: Alert) -> tuple[Alert, ...]:
    """The list with one more. What repeats itself within `REPEAT_S` is counted, not listed again."""
    for i, old in enumerate(alerts):
        if _sort(old) == _sort(new) and new.wall_s - max(old.wall_s, old.last_s) < REPEAT_S:
            told_again = msgspec.structs.replace(old, text=new.text, times=old.times + 1, last_s=new.wall_s)
            return (*alerts[:i], *alerts[i + 1 :], told_again)
    return (*alerts, new)


def _sort(alert: Alert) -> tuple[str, ...]:
    """Diagnoses of another fault, or a more serious one, are another alert."""
    return alert.kind, alert.subject, alert.fault_class, alert.entry, alert.action


def _diagnosed(event: events.Diagnosed) -> Alert:
    by_itself = "info" if event.action in _BY_ITSELF else "warning"
    victims = f"Failed because of it: {_some(event.victims)}." if event.victims else ""
    entry = f", {event.entry}" if event.entry else ""
    sentences = [
        f"{event.subject}: {event.fault_class or UNKNOWN}{entry}, {100 * event.confidence:.0f} % sure.",
        f"Cause: {_sentence(event.cause)}" if event.cause else "",
        victims,
        WHAT_NEXT.get(event.action, f"Action: {event.action}."),
        f"It worked if: {_sentence(event.verify)}" if event.verify else "",
        f"Evidence: {event.evidence[0]}" if event.evidence else "",
    ]
    return Alert(
        wall_s=event.wall_s,
        level="critical" if event.action in _FOR_A_PERSON else by_itself,
        kind="diagnosed",
        subject=event.subject,
        text=" ".join(filter(None, sentences)),
        fault_class=event.fault_class or UNKNOWN,
        entry=event.entry,
        action=event.action,
    )


def _healed(event: events.Healed) -> Alert:
    end_s = event.resumed_s or event.wall_s
    what = event.kind.replace("_", " ") + (f" of {_some(event.subjects)}" if event.subjects else "")
    back = f"{event.site} trains again after {max(0.0, end_s - (event.began_s or end_s)):.2f} s"
    lost = f"steps done again: {event.lost_steps}" if event.lost_steps else "no step was lost"
    return Alert(
        wall_s=event.wall_s,
        level="info",
        kind="healed",
        subject=event.subjects[0] if event.subjects else event.site,
        text=f"{back}: {what}, generation {event.generation}, from step {event.step}; {lost}. "
        f"You: nothing. It holds if `isthmus status RUN` shows the steps of {event.site} rising.",
        action=event.kind,
    )


def _fault(event: events.Fault) -> tuple[Level, str, str, str]:
    """An agent diagnoses what it tells of, and that comes as an alert of its own."""
    level = "critical" if event.kind in _CRITICAL_FAULTS else "warning"
    site = site_of_agent(event.source)
    if not site:
        return level, event.kind, event.subject, event.detail
    found_s = event.wall_s - event.began_s if event.began_s else 0.0
    after = f", found after {found_s:.2f} s" if found_s >= 0.005 else ""
    text = (
        f"{event.subject}: {event.kind.replace('_', ' ')}{after}: {_sentence(event.detail)} The agent of "
        f"{site} is on it: a diagnosis and 'healed' follow. If not within a minute: `isthmus status RUN`."
    )
    return level, event.kind, event.subject, text


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text}." if text and text[-1] not in ".!?:" else text


def _describe(event: AnyEvent) -> tuple[Level, str, str, str] | None:
    match event:
        case events.Fault():
            return _fault(event)
        case events.Recovered():
            text = f"back after {event.after_s:.1f} s ({event.kind})"
            return "info", "recovered", event.subject, text
        case events.Quarantined():
            return "warning", "quarantined", event.site, f"push {event.seq}: {event.reason}"
        case events.CheckpointFailed():
            return "warning", "checkpoint_failed", event.what, event.reason
        case events.SiteLeft() if event.reason not in CLEAN_LEAVES:
            return "warning", "site_left", event.site, event.reason
        case events.EventsDropped():
            return "warning", "events_dropped", event.source, f"{event.count} events lost: {event.reason}"
        case events.Note() if event.level == "error":
            return "warning", "error", event.source, event.text
        case events.RunFinished() if event.reason.startswith("failed"):
            return "critical", "run_failed", event.source, event.reason
        case events.RunFinished():
            tokens = f": {event.tokens} tokens" if event.tokens else ""
            return "info", "run_finished", event.source, event.reason + tokens
        case _:
            return None
