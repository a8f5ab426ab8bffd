"""Reads what the ranks of a node are doing and asks the detectors."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from isthmus.agent.disk import DiskLooks
from isthmus.chips.host import memory_limit
from isthmus.errors import CorruptError
from isthmus.faults.detect.memory import MemorySettings
from isthmus.faults.detect.process import read_contention, read_process
from isthmus.faults.detect.readings import NodeFacts, Process, Readings
from isthmus.faults.detect.wait_graph import wait_graph
from isthmus.faults.detect.watch import Watch, WatchSettings
from isthmus.faults.finding import Finding
from isthmus.faults.page import RING, PageReader, PageView, Peek, Phase, StateHash, StepRecord, page_file

ANSWER_S = 2.0
"""From a new group's order to the first word of a process that was waiting for it."""
CALM_NS = 500_000_000
"""A page that was written more recently than this is of a rank that gets on."""
JUDGE_NS = 500_000_000
"""The detectors are asked this often while all ranks get on, sooner where steps are quick."""
NODE_EVERY_S = 1.0
"""Facts of the whole node change slowly, and asking for them costs system calls. So it is with processes
that write: only of a silent one it matters at every look what it is at."""
SILENT_S = 0.2
NODE = "local"
"""This one, by the names of its processes."""


class Watcher:
    """Owns a reader per page, and the detectors.

    Args:
        live: the agent's folder, with the pages.
        disk: where checkpoints go.
        chips: kind of chip of each rank; empty: all are of one kind.
    """

    def __init__(self, live: Path, disk: Path, chips: Sequence[str] = ()):
        self._live = live
        self._chips = dict(enumerate(chips))
        self._cores = len(os.sched_getaffinity(0))
        self._readers: dict[str, PageReader] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        """The last steps whose record and whose hash were read, by process."""
        memory = MemorySettings(host_limit={NODE: memory_limit()})
        self._watch = Watch(WatchSettings(memory=memory))
        self._disk_looks = DiskLooks(disk, time.monotonic())
        self._generation, self._since_s = 0, 0.0
        self._judged_ns = 0
        self._judged_step = 0
        """When the detectors were asked last, and the highest step then."""
        self._facts, self._facts_due_s = NodeFacts(), 0.0
        self.step = -1
        """Optimizer steps done, the highest on the pages that were read last."""

    def look(self, ranks: dict[int, tuple[str, int]], generation: int) -> list[Finding]:
        """What the detectors find now.

        Args:
            ranks: process and its pid, by the place it holds in this generation.
        """
        now_ns = time.monotonic_ns()
        if generation != self._generation:
            self._generation, self._since_s = generation, now_ns / 1e9
            self._judged_ns = 0
        self._drop({process for process, _ in ranks.values()})
        if self._is_calm(ranks, now_ns):
            return []
        self._judged_ns = now_ns
        is_due = now_ns / 1e9 >= self._facts_due_s
        views: dict[int, PageView] = {}
        steps: dict[int, list[StepRecord]] = {}
        states: dict[int, list[StateHash]] = {}
        processes: dict[int, Process] = {}
        waiting: dict[int, PageView] = {}
        for rank, (process, pid) in ranks.items():
            reader = self._reader(process)
            if reader is None:
                continue
            view = reader.read(now_ns)
            if view.generation != generation:
                waiting[rank] = view
                continue
            views[rank] = view
            steps[rank], states[rank] = self._news(process, reader, view.step)
            if (is_due or view.quiet_s > SILENT_S) and (found := read_process(pid)):
                processes[rank] = found
        self.step = self._judged_step = max((view.step for view in views.values()), default=-1)
        readings = Readings(
            ranks=tuple(ranks),
            views=views,
            steps=steps,
            states=states,
            processes=processes,
            chips=self._chips,
            homes={rank: ranks[rank][0].rpartition("/")[0] for rank in views},
            nodes={NODE: self._node(now_ns / 1e9)},
        )
        found = self._watch.observe(now_ns / 1e9, readings)
        return found + [
            self._missing(rank, now_ns / 1e9) for rank in self._absent(views, waiting, now_ns / 1e9)
        ]

    def _news(self, process: str, reader: PageReader, step: int) -> tuple[list[StepRecord], list[StateHash]]:
        """What came since the last look. A group that was rolled back to `step` does later ones anew."""
        recorded, hashed = self._seen.get(process, (step - 1, step - 1))
        records, states = reader.records(min(recorded, step)), reader.states(min(hashed, step))
        self._seen[process] = (
            records[-1].step if records else min(recorded, step),
            states[-1].step if states else min(hashed, step),
        )
        return records, states

    def _is_calm(self, ranks: dict[int, tuple[str, int]], now_ns: int) -> bool:
        """All have written just now, in this group, and no gradient has just gone wrong; and the detectors
        have seen what was before.
        """
        if now_ns >= self._judged_ns + JUDGE_NS:
            return False
        peeks = self._peek(ranks)
        if self.step > self._judged_step + RING // 2:
            return False
        return len(peeks) == len(ranks) and all(
            peek.generation == self._generation
            and now_ns < peek.beat_ns + CALM_NS
            and (peek.nonfinite_step < 0 or peek.step > peek.nonfinite_step + 2)
            for peek in peeks
        )

    def last_step(self, ranks: dict[int, tuple[str, int]]) -> int:
        """Optimizer steps done, the highest on these pages now; a process that died has left its page."""
        self._peek(ranks)
        return self.step

    def _peek(self, ranks: dict[int, tuple[str, int]]) -> list[Peek]:
        readers = [self._reader(process) for process, _ in ranks.values()]
        peeks = [reader.peek() for reader in readers if reader]
        self.step = max((peek.step for peek in peeks), default=-1)
        return peeks

    def _absent(self, here: dict[int, PageView], waiting: dict[int, PageView], now_s: float) -> list[int]:
        """Ranks that were told of the group and have not come while others have, though they had nothing else
        to do, or still wait in the last group, which is over: now and then gloo does not wake up.
        """
        if not here or now_s < self._since_s + ANSWER_S:
            return []
        idle = (Phase.IDLE, Phase.REGROUP)
        late = {rank: view for rank, view in waiting.items() if view.quiet_s > ANSWER_S}
        return [rank for rank, view in late.items() if view.phase in idle or view.waiting]

    def _missing(self, rank: int, now_s: float) -> Finding:
        what = f"rank {rank} has not come to group {self._generation} for {now_s - self._since_s:.1f} s"
        return Finding(kind="rendezvous", rank=rank, what=what, began_s=self._since_s, seen_s=now_s)

    def mismatch(self, ranks: dict[int, tuple[str, int]]) -> Finding | None:
        """After a rank was aborted in a collective: the one rank, if there is one, that did another one than
        all others. The rank that receives is aborted, whoever is wrong.
        """
        readers = {rank: reader for rank, (name, _) in ranks.items() if (reader := self._reader(name))}
        graph = wait_graph({rank: reader.read() for rank, reader in readers.items()})
        odd = graph.mismatch.odd if graph.mismatch and graph.mismatch.majority else ()
        if len(odd) != 1:
            return None
        now_s = time.monotonic()
        what = f"rank {odd[0]} did another collective than all others"
        return Finding(kind="desync", rank=odd[0], what=what, began_s=now_s, seen_s=now_s)

    def take_ended(self) -> list[Finding]:
        """Faults that ended by themselves since the last call."""
        return self._watch.take_ended()

    def _reader(self, process: str) -> PageReader | None:
        if process not in self._readers:
            with contextlib.suppress(FileNotFoundError, CorruptError):
                self._readers[process] = PageReader(page_file(self._live, process))
        return self._readers.get(process)

    def _drop(self, processes: set[str]) -> None:
        for process in self._readers.keys() - processes:
            self._readers.pop(process).close()
            self._seen.pop(process, None)

    def _node(self, now_s: float) -> NodeFacts:
        if now_s < self._facts_due_s:
            return self._facts
        self._facts_due_s = now_s + NODE_EVERY_S
        probe = self._disk_looks.take(now_s)
        self._facts = NodeFacts(
            contention=read_contention(self._cores),
            disk_free=self._disk_looks.free_bytes,
            checkpoint_bytes=self._disk_looks.checkpoint_bytes,
        )
        return replace(self._facts, probe=probe)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
