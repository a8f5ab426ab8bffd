"""Reading a run's journal while it is being written: all sources, merged in the order of their time."""

import heapq
from collections.abc import Iterator
from pathlib import Path

import msgspec

from isthmus.clock import Clock, RealClock
from isthmus.errors import CorruptError, NotFoundError
from isthmus.journal.events import AnyEvent, Note, RunFinished
from isthmus.journal.log import LogReader, Record
from isthmus.journal.store import DiskStore, Store
from isthmus.journal.writer import FOLDER

POLL_EVERY_S = 0.5
_decode = msgspec.msgpack.Decoder(AnyEvent).decode


class Reader:
    """Reads what has been written so far; `poll` again for what came in the meantime.

    Torn tails (a writer was killed, or is in the middle of a write) are waited for. A damaged log is told as
    a Note of level 'error', and the other logs are read on.

    Raises:
        NotFoundError: the run has no journal.
    """

    def __init__(self, run_dir: Path, store: Store | None = None):
        self._root = Path(run_dir) / FOLDER
        self._store = store or DiskStore()
        self._logs: dict[str, LogReader] = {}
        self._last_s: dict[str, float] = {}
        self._damaged: set[str] = set()
        if not self._store.list(self._root):
            raise NotFoundError(
                "there is no journal",
                where=str(run_dir),
                hint="give the folder of a run, as `isthmus train` and `isthmus demo` print it",
            )

    def poll(self) -> Iterator[AnyEvent]:
        """The events not yet returned, in time order. Use it up before the next poll."""
        for name in self._store.list(self._root):
            if name not in self._logs:
                self._logs[name] = LogReader(self._store, self._root / name)
        return heapq.merge(*(self._events(name) for name in self._logs), key=lambda event: event.wall_s)

    def _events(self, name: str) -> Iterator[AnyEvent]:
        if name in self._damaged:
            return
        try:
            for record in self._logs[name].read():
                event = _parse(record)
                if event is not None:
                    self._last_s[name] = event.wall_s
                    yield event
        except CorruptError as error:
            self._damaged.add(name)
            text = f"{error.where}: {error.message}; the events after it are not read"
            yield Note(wall_s=self._last_s.get(name, 0.0), source=name, level="error", text=text)


def _parse(record: Record) -> AnyEvent | None:
    """None for an event that a newer version wrote and this one does not know."""
    try:
        return _decode(record.body)
    except msgspec.ValidationError:
        return None


def read(run_dir: Path) -> Iterator[AnyEvent]:
    """All events so far, in time order. Raises NotFoundError where there is no journal."""
    return Reader(run_dir).poll()


def follow(run_dir: Path, clock: Clock | None = None) -> Iterator[AnyEvent]:
    """All events, then each new one as it comes, until the run has finished."""
    reader, clock = Reader(run_dir), clock or RealClock()
    finished = False
    while True:
        quiet = True
        for event in reader.poll():
            quiet = False
            finished = isinstance(event, RunFinished) or finished
            yield event
        if finished and quiet:
            return
        clock.sleep(POLL_EVERY_S)
