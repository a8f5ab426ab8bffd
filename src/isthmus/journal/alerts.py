"""Which events are worth waking somebody for: pure, so that the webhook, the status and the report agree."""

from typing import Literal

import msgspec

from isthmus.journal import events
from isthmus.journal.events import AnyEvent

Level = Literal["critical", "warning", "info"]

CLEAN_LEAVES = frozenset({"", "budget", "done", "drained", "finished", "left", "stopped"})
"""Reasons of SiteLeft that are no trouble."""
REPEAT_S = 60.0
"""An alert of the same kind and subject within this time is the same alert."""
_CRITICAL_FAULTS = frozenset({"disk_full", "poisoned", "server_died", "site_died"})


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """`subject` is the site, rank or link it is about; `wall_s` is Unix time."""

    wall_s: float
    level: Level
    kind: str
    subject: str
    text: str
    times: int = 1
    last_s: float = 0.0
    """When it was said for the last time, if more than once."""


def alert_of(event: AnyEvent) -> Alert | None:
    """The alert this event raises; None for the everyday ones."""
    found = _describe(event)
    if found is None:
        return None
    level, kind, subject, text = found
    return Alert(wall_s=event.wall_s, level=level, kind=kind, subject=subject, text=text)


def add_alert(alerts: tuple[Alert, ...], new: Alert) -> tuple[Alert, ...]:
    """The list with one more. What repeats itself within `REPEAT_S` is counted, not listed again."""
    for i, old in enumerate(alerts):
        same = (old.kind, old.subject) == (new.kind, new.subject)
        if same and new.wall_s - max(old.wall_s, old.last_s) < REPEAT_S:
            told_again = msgspec.structs.replace(old, text=new.text, times=old.times + 1, last_s=new.wall_s)
            return (*alerts[:i], *alerts[i + 1 :], told_again)
    return (*alerts, new)


def _describe(event: AnyEvent) -> tuple[Level, str, str, str] | None:
    match event:
        case events.Fault():
            level = "critical" if event.kind in _CRITICAL_FAULTS else "warning"
            return level, event.kind, event.subject, event.detail
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
            return "info", "run_finished", event.source, f"{event.reason}: {event.tokens} tokens"
        case _:
            return None
