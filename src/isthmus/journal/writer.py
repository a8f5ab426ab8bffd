"""Writing events: `emit` hands them to a thread, so that a slow or full disk never holds up training.

The thread gives each event to the operating system at once and syncs the disk by a timer. So an event
outlives kill -9 of its process a moment after `emit`, and a power cut `SYNC_EVERY_S` later.
"""

import collections
import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from isthmus.clock import Clock, RealClock
from isthmus.errors import CorruptError, IsthmusError, StorageError
from isthmus.journal.events import AnyEvent, EventsDropped
from isthmus.journal.log import AppendLog
from isthmus.journal.store import DiskStore, Store

FOLDER = "journal"
SYNC_EVERY_S = 5.0
RETRY_EVERY_S = 1.0
BUFFERED_EVENTS = 10_000
"""Events kept while the disk refuses them; beyond that the oldest are dropped, and counted."""
SEGMENT_BYTES = 8 << 20
CLOSE_S = 5.0
"""How long `close` waits for a disk that does not answer."""
FOLDERS_PER_SOURCE = 16


class Journal:
    """A context manager; any thread may emit. Nothing here raises because of the disk.

    Args:
        source: who speaks ('server', 'site/jinan', 'rank/jinan/0'); at most one Journal of it per process.
            Its folder is run_dir/journal/server, .../site-jinan and so on. Where another process holds that
            folder, or its log is damaged, it is .../server~1.
        clock: gives the events' time. The timers run in real time whatever the clock.
    """

    def __init__(self, run_dir: Path, source: str, *, store: Store | None = None, clock: Clock | None = None):
        self._root = Path(run_dir) / FOLDER
        self._source = source
        self._store = store or DiskStore()
        self._clock = clock or RealClock()
        self._encode = msgspec.msgpack.Encoder().encode
        self._waiting: collections.deque[bytes] = collections.deque()
        self._unsynced: list[bytes] = []
        self._dropped = 0
        self._trouble = ""
        self._log: AppendLog | None = None
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._woken, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"journal of {source}", daemon=True)
        self._thread.start()

    def emit(self, event: AnyEvent) -> None:
        """Stamp and queue one event. Takes microseconds, never waits for the disk."""
        stamped = msgspec.structs.replace(
            event, wall_s=event.wall_s or self._clock.wall_s(), source=event.source or self._source
        )
        self._queue(self._encode(stamped))
        self._woken.set()

    def close(self) -> None:
        """Write and sync what is queued; gives up after `CLOSE_S`, so that a dead disk holds nobody."""
        self._closing.set()
        self._woken.set()
        self._thread.join(CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ):
        self.close()

    def _queue(self, *records: bytes) -> None:
        with self._lock:
            self._waiting.extend(records)
            while len(self._waiting) > BUFFERED_EVENTS:
                self._waiting.popleft()
                self._dropped += 1

    def _run(self) -> None:
        now_s = RealClock().now_s
        sync_at = now_s() + SYNC_EVERY_S
        while not self._closing.is_set():
            if self._trouble:
                self._closing.wait(RETRY_EVERY_S)
            else:
                self._woken.wait(max(0.0, sync_at - now_s()))
            self._woken.clear()
            due = now_s() >= sync_at
            self._write(sync=due)
            if due:
                sync_at = now_s() + SYNC_EVERY_S
        self._write(sync=True)
        self._held.close()

    def _write(self, *, sync: bool) -> None:
        """One attempt to bring everything to the disk. On trouble the events stay queued for the next."""
        try:
            self._log = self._log or self._open()
            self._tell_dropped(self._log)
            self._append_waiting(self._log)
            if sync or len(self._unsynced) >= BUFFERED_EVENTS // 2:
                self._sync(self._log)
            self._trouble = ""
        except IsthmusError as error:
            self._trouble = error.message
            self._log = None
            self._held.close()

    def _tell_dropped(self, log: AppendLog) -> None:
        """Ahead of what still waits, since the oldest were dropped; not through the queue, which is full."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if not dropped:
            return
        event = EventsDropped(
            wall_s=self._clock.wall_s(), source=self._source, count=dropped, reason=self._trouble
        )
        try:
            log.append(self._encode(event), sync=False)
        except StorageError:
            with self._lock:
                self._dropped += dropped
            raise

    def _append_waiting(self, log: AppendLog) -> None:
        while self._waiting:
            with self._lock:
                record = self._waiting.popleft()
            try:
                log.append(record, sync=False)
            except StorageError:
                with self._lock:
                    self._waiting.appendleft(record)
                raise
            self._unsynced.append(record)

    def _sync(self, log: AppendLog) -> None:
        """A failed sync takes the records since the last good one out of the log, so they queue again."""
        records, self._unsynced = self._unsynced, []
        try:
            log.sync()
        except StorageError:
            with self._lock:
                later = list(self._waiting)
                self._waiting.clear()
            self._queue(*records, *later)
            raise

    def _open(self) -> AppendLog:
        """The log in this source's first folder that is sound and that no other process writes."""
        name = self._source.replace("/", "-")
        problem: IsthmusError | None = None
        for attempt in range(FOLDERS_PER_SOURCE):
            folder = self._root / (f"{name}~{attempt}" if attempt else name)
            with contextlib.ExitStack() as held:
                try:
                    self._store.make_folder(folder)
                    held.enter_context(self._store.lock(folder))
                    log = AppendLog(self._store, folder, SEGMENT_BYTES)
                except (StorageError, CorruptError) as error:
                    problem = error
                    continue
                self._held = held.pop_all()
                return log
        raise problem or AssertionError
