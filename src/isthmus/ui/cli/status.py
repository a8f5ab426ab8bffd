"""`isthmus status`."""

import sys
import time
from pathlib import Path

import msgspec

from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.reader import Reader
from isthmus.journal.view import RunView
from isthmus.ui import tables

REFRESH_S = 1.0


def status(run: Path, *, watch: bool = False, json_: bool = False) -> None:
    """Show where a run stands: sites, links, versions, faults.

    Parameters
    ----------
    run
        The run's folder.
    watch
        Stay and refresh every second until the run has finished.
    json_
        Print one JSON object (with --watch: one per line and second).
    """
    reader = Reader(run)
    view = fold(reader.poll())
    if not watch:
        _show(view, json_)
    elif json_:
        while True:
            _show(view, json_)
            sys.stdout.flush()
            if view.finished:
                return
            time.sleep(REFRESH_S)
            view = fold(reader.poll(), view)
    else:
        _watch(reader, view)


def _show(view: RunView, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(figures(view, time.time())).decode())
    else:
        tables.console().print(tables.status(view, time.time()))


def _watch(reader: Reader, view: RunView) -> None:
    from rich.live import Live

    with Live(tables.status(view, time.time()), console=tables.console(), auto_refresh=False) as live:
        while not view.finished:
            time.sleep(REFRESH_S)
            view = fold(reader.poll(), view)
            live.update(tables.status(view, time.time()), refresh=True)
