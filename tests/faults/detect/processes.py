"""Real processes that step together and write pages, without torch, and an executor around a `Watch`."""

import ctypes
import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path

from isthmus.errors import CorruptError
from isthmus.faults.detect import Readings, Watch
from isthmus.faults.detect.process import read_process
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageReader, PageWriter, Phase

_FORK = get_context("fork")
LONG_S = 600


class Ranks:
    """`with Ranks(...) as ranks:`; killed at the end. The culprit makes the fault at step `at`."""

    def __init__(self, folder: Path, num_ranks: int, step_s: float, fault: str = "", at: int = 20):
        self.folder, self.step_s, self.fault, self.at = folder, step_s, fault, at
        self.culprit = num_ranks - 1
        self.ranks = tuple(range(num_ranks))
        self.began_s = _FORK.Value("d", 0.0, lock=False)
        self._barrier = _FORK.Barrier(num_ranks)
        self._processes = [_FORK.Process(target=self._run, args=(rank,), daemon=True) for rank in self.ranks]

    def __enter__(self) -> "Ranks":
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    def _run(self, rank: int) -> None:
        guilty = rank == self.culprit
        if guilty and self.fault == "missing":
            self.began_s.value = time.monotonic()
            time.sleep(LONG_S)
        page = PageWriter(self.folder / str(rank))
        threading.Thread(target=_beat, args=(page,), daemon=True).start()
        page.begin_step()
        for step in range(1, 1_000_000):
            now = guilty and step == self.at
            page.phase(Phase.LOAD)
            self._fail("loader", now)
            page.phase(Phase.FORWARD)
            _compute(0.3 * self.step_s)
            for fault in ("sleep", "stop", "lock", "busy"):
                self._fail(fault, now)
            time.sleep(0.5 * self.step_s)
            page.phase(Phase.EXCHANGE)
            odd = now and self.fault == "mismatch"
            if odd:
                self.began_s.value = time.monotonic()
            sequence = page.issue(2 if odd else 1)
            page.wait(sequence)
            if odd:
                time.sleep(LONG_S)
            self._barrier.wait()
            page.resume(sequence)
            if rank == 0 and self.fault == "checkpoint" and step % 10 == 0:
                page.phase(Phase.CHECKPOINT)
                time.sleep(3.0)
            page.end_step(step)

    def _fail(self, fault: str, now: bool) -> None:
        if not now or fault != self.fault:
            return
        self.began_s.value = time.monotonic()
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault == "lock":
            ctypes.PyDLL(None).sleep(LONG_S)
        elif fault == "busy":
            _compute(LONG_S)
        else:
            time.sleep(LONG_S)


def _beat(page: PageWriter) -> None:
    while True:
        page.pulse()
        time.sleep(0.1)


def _compute(duration_s: float) -> None:
    until_s = time.monotonic() + duration_s
    while time.monotonic() < until_s:
        sum(range(100))


class Agent:
    """What an agent does around a `Watch`."""

    def __init__(self, ranks: Ranks, watch: Watch):
        self._ranks, self._watch = ranks, watch
        self._readers: dict[int, PageReader] = {}
        self._told: dict[int, int] = {}

    def look(self) -> list[Finding]:
        self._open_new()
        now_ns = time.monotonic_ns()
        views = {rank: reader.read(now_ns) for rank, reader in self._readers.items()}
        steps = {rank: reader.records(self._told.get(rank, 0)) for rank, reader in self._readers.items()}
        self._told |= {rank: records[-1].step for rank, records in steps.items() if records}
        processes = {rank: read_process(view.pid) for rank, view in views.items()}
        readings = Readings(
            ranks=self._ranks.ranks,
            views=views,
            steps=steps,
            processes={rank: process for rank, process in processes.items() if process},
        )
        return self._watch.observe(now_ns / 1e9, readings)

    def _open_new(self) -> None:
        for rank in self._ranks.ranks:
            path = self._ranks.folder / str(rank)
            if rank not in self._readers and path.exists():
                try:
                    self._readers[rank] = PageReader(path)
                except CorruptError:
                    continue  # it is being made

    def watch_for(self, duration_s: float) -> list[Finding]:
        """Looks 20 times a second until something is found."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            if found := self.look():
                return found
            time.sleep(0.05)
        return []
