"""`isthmus logs`."""

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import msgspec
from rich.text import Text

from isthmus.errors import InputError, NotFoundError
from isthmus.journal.alerts import alert_of
from isthmus.journal.events import AnyEvent
from isthmus.journal.reader import follow as follow_run
from isthmus.journal.reader import read
from isthmus.ui import tables, text
from isthmus.units import Seconds

_COLOURS = {"critical": "bold red", "warning": "yellow", "info": "green"}
EVENT_TYPES = {kind.__name__: kind for kind in get_args(AnyEvent)}


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Empty fields let everything through."""

    sites: frozenset[str] = frozenset()
    types: tuple[type, ...] = ()
    since_s: float = 0.0

    def lets_through(self, event: AnyEvent) -> bool:
        return (
            (not self.sites or bool(self.sites & sites_of(event)))
            and (not self.types or isinstance(event, self.types))
            and event.wall_s >= self.since_s
        )


def logs(
    run: Path,
    *,
    follow: bool = False,
    site: list[str] | None = None,
    type_: list[str] | None = None,
    since: str = "",
    json_: bool = False,
) -> None:
    """Print the events of a run's journal, all sources in the order of their time.

    Parameters
    ----------
    run
        The run's folder.
    follow
        Print new events as they come, until the run has finished.
    site
        Only events of or about this site; may be given again for more.
    type_
        Only events of this type, as docs/journal.md lists them; may be given again for more.
    since
        Only events of the last stretch of the journal, for example '5 min'.
    json_
        Print one JSON object per line.
    """
    wanted = Filter(
        sites=frozenset(site or ()),
        types=tuple(_event_type(name) for name in type_ or ()),
        since_s=_last_s(run) - _duration_s(since) if since else 0.0,
    )
    _check_sites(run, wanted.sites)
    told = follow_run(run) if follow else read(run)
    _print((event for event in told if wanted.lets_through(event)), json_)


def sites_of(event: AnyEvent) -> set[str]:
    """Sites that the event is about, or comes from."""
    named = {getattr(event, "site", ""), *getattr(event, "sites", ())}
    kind, _, rest = event.source.partition("/")
    if kind in ("site", "rank", "agent"):
        named.add(rest.partition("/")[0])
    return named - {""}


def line(event: AnyEvent) -> str:
    """`12:03:44.120  rank/jinan/0     StepDone           site=jinan step=12 ...`"""
    fields = ((name, getattr(event, name)) for name in type(event).__struct_fields__)
    values = " ".join(f"{name}={_short(value)}" for name, value in fields if name not in ("wall_s", "source"))
    return f"{text.clock(event.wall_s)}  {event.source:<16} {type(event).__name__:<20} {values}"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return repr(value) if isinstance(value, str) and (" " in value or not value) else str(value)


def _print(told: Iterable[AnyEvent], as_json: bool) -> None:
    out = tables.console()
    for event in told:
        if as_json:
            print(msgspec.json.encode(event).decode(), flush=True)
            continue
        alert = alert_of(event)
        if alert and out.is_terminal:
            out.print(Text(line(event), style=_COLOURS[alert.level]), soft_wrap=True)
        else:
            print(line(event), flush=True)


def _event_type(name: str) -> type:
    if name not in EVENT_TYPES:
        raise InputError(
            f"there is no event type '{name}'", where="--type", hint=f"known are {', '.join(EVENT_TYPES)}"
        )
    return EVENT_TYPES[name]


def _duration_s(since: str) -> float:
    try:
        return float(Seconds.parse(since))
    except ValueError as error:
        raise InputError(str(error), where="--since", hint="for example --since '5 min'") from error


def _last_s(run: Path) -> float:
    return max((event.wall_s for event in read(run)), default=0.0)


def _check_sites(run: Path, wanted: frozenset[str]) -> None:
    if not wanted:
        return
    known = {site for event in read(run) for site in sites_of(event)}
    for site in sorted(wanted - known):
        raise NotFoundError(
            f"the journal knows no site '{site}'",
            where=str(run),
            hint=f"known are {', '.join(sorted(known))}",
        )
