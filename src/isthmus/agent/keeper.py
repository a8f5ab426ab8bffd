"""A site's keeper: it hears processes, exits and detectors, lets `heal.decide` decide, and does what that
says, by the hands of this node (`hands`) and of the others (`nodes`). It may be killed at any time: the ranks
train on, and its next life finds them again.
"""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from isthmus.agent.brood import readable
from isthmus.agent.checks import Checker
from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.drills import Drills
from isthmus.agent.hands import Hands
from isthmus.agent.nodes import Nodes
from isthmus.agent.stacks import Stacks
from isthmus.agent.tails import Tails
from isthmus.agent.watch import Watcher
from isthmus.errors import IsthmusError, StorageError
from isthmus.faults.diagnosis import Diagnosis
from isthmus.faults.page import page_file
from isthmus.faults.terms import FaultClass
from isthmus.heal import actions, events
from isthmus.heal.decide import decide
from isthmus.heal.messages import Inject, KeeperMessage
from isthmus.heal.policy import Policy
from isthmus.heal.state import KeeperState, initial, recover
from isthmus.heal.trouble import saved
from isthmus.journal import events as told
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal

POLL_S = 0.05
TICK_S = 0.5
"""While the group runs, nothing waits for the time."""
NODE = "local"
"""The keeper's own."""


_NOTED: dict[FaultClass, Literal["info", "warning"]] = {
    "loss_spike": "info",
    "disk_fail": "warning",
    "storage": "warning",
}
"""What stops nobody and is no rank's: told, and nothing is done."""


@dataclass(frozen=True)
class Site:
    """What is to be kept alive."""

    name: str
    world_size: int
    folder: Path
    """The site's, in the run's."""
    slots: int
    """Places on the keeper's own node."""
    policy: Policy
    address: str = "127.0.0.1"
    """Of this node, as the others reach it."""

    @property
    def record(self) -> Path:
        return self.folder / "keeper.json"


@dataclass
class Keeper:
    """Owns what it is given. `open`, then `turn` until it returns an End, then `close`.

    Args:
        hands: of this node.
        nodes: the site's other ones, where it has any.
    """

    site: Site
    journal: Journal
    hands: Hands
    watcher: Watcher
    stacks: Stacks
    drills: Drills
    diagnoser: Diagnoser
    checker: Checker
    """Of this node."""
    nodes: Nodes | None = None
    tails: Tails = field(init=False)
    leave_asked: str = ""
    state: KeeperState = field(init=False)
    _pending: list[events.AnyEvent] = field(default_factory=list)
    _unsaved: list[actions.AnyAction] = field(default_factory=list)
    """Actions that wait for a record that the disk refused."""
    _end: actions.End | None = None
    _next_look_s: float = 0.0
    _next_tick_s: float = 0.0

    def open(self) -> None:
        """Takes up an earlier life's record, listens, and starts the nursery."""
        self.tails = Tails(self.diagnoser.signatures)
        record = read_record(self.site.record)
        now_s = time.monotonic()
        if record is None:
            state = initial(self.site.name, self.site.world_size, self.site.policy)
            self.state = msgspec.structs.replace(state, now_s=now_s, since_s=now_s)
        else:
            self.state = recover(self.site.name, record, self.site.policy, now_s)
        self.hands.open()
        site = self.site
        self._happened(events.NodeJoined(now_s=now_s, node=NODE, slots=site.slots, address=site.address))
        for event in self.hands.meet_again([name for name in self.state.members if node_of(name) == NODE]):
            self._happened(event)

    def turn(self) -> actions.End | None:
        """Waits for something to happen, for at most `POLL_S`, and deals with it."""
        others = self.nodes.descriptors if self.nodes else []
        own = [self.hands.door, *self.hands.descriptors, *self.drills.descriptors]
        for descriptor in readable([*own, *others], POLL_S):
            self._ready(descriptor)
        now_s = time.monotonic()
        if self.leave_asked:
            self._happened(events.LeaveAsked(now_s=now_s, reason=self.leave_asked))
            self.leave_asked = ""
        if self.nodes:
            self._all_happened(self.nodes.turn())
            self._tell_notes(self.nodes)
        if report := self.checker.done():
            self._happened(events.Checked(now_s=now_s, node=NODE, ok=report.ok, text=report.text))
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + POLL_S
            self._look(now_s)
        return self._end

    def _tell_notes(self, nodes: Nodes) -> None:
        while nodes.notes:
            text = f"site {self.site.name}: {nodes.notes.popleft()}"
            self.journal.emit(told.Note(level="info", text=text))

    def _look(self, now_s: float) -> None:
        state, ranks = self.state, self._ranks()
        for finding in self.watcher.look(ranks, state.generation):
            if finding.lasting and finding.rank in ranks and (pid := ranks[finding.rank][1]):
                self.stacks.take(finding.rank, pid, state.generation)
            if finding.rank is None and (level := _NOTED.get(finding.kind)):
                text = f"site {self.site.name}: {finding.what}"
                self.journal.emit(told.Note(level=level, text=text))
                continue
            now_s = time.monotonic()
            self._happened(events.Found(now_s=now_s, finding=finding, generation=state.generation))
            self._diagnosed(self.diagnoser.of_finding(finding), state.generation)
        for finding in self.watcher.take_ended():
            ranks_meant = finding.suspects if finding.rank is None else (finding.rank,)
            subjects = [f"rank-{self.site.name}-{rank}" for rank in ranks_meant]
            for subject in subjects or [f"site {self.site.name}"]:
                after_s = now_s - finding.began_s
                self.journal.emit(told.Recovered(subject=subject, kind=finding.kind, after_s=after_s))
        if self.tails.is_due(now_s):
            self._read_logs(now_s, ranks)
        self.drills.due(now_s, self._inject)
        if self.state.stage != "running" or now_s >= self._next_tick_s:
            self._next_tick_s = now_s + TICK_S
            self._happened(events.Tick(now_s=now_s, step=self.watcher.step))

    def _read_logs(self, now_s: float, ranks: dict[int, tuple[str, int]]) -> None:
        """What ranks of this node and its kernel print, as far as the catalogue knows it."""
        logs = {rank: self.hands.home.log(name, rank) for rank, (name, _) in ranks.items()}
        for hit in self.tails.look(now_s, logs):
            subject = f"node-{NODE}" if hit.rank is None else f"rank-{self.site.name}-{hit.rank}"
            self.journal.emit(told.Fault(subject=subject, kind=hit.entry.kind, detail=hit.line))
            diagnosis = self.diagnoser.of_line(hit.rank, hit.entry, hit.line, hit.where, NODE)
            self._diagnosed(diagnosis, self.state.generation)

    def _ranks(self) -> dict[int, tuple[str, int]]:
        """Process and pid by rank, of those that live; 0: it is on another node."""
        others = self.nodes.processes if self.nodes else ()
        pids = {**dict.fromkeys(others, 0), **self.hands.brood.pids}
        return {rank: (name, pids[name]) for rank, name in enumerate(self.state.members) if name in pids}

    def _dead(self, process: str) -> dict[int, tuple[str, int]]:
        members = self.state.members
        return {members.index(process): (process, 0)} if process in members else {}

    def _ready(self, descriptor: int) -> None:
        if self.nodes and descriptor in self.nodes.descriptors:
            self._all_happened(self.nodes.ready(descriptor))
        elif descriptor in self.drills.descriptors:
            self.drills.hear(descriptor, time.monotonic())
        else:
            self._all_happened(self.hands.ready(descriptor))

    def _all_happened(self, heard: Sequence[events.AnyEvent]) -> None:
        for event in heard:
            if isinstance(event, events.Exited):
                self._gone(event)
            else:
                self._happened(event)

    def _gone(self, exited: events.Exited) -> None:
        process, code = exited.process, exited.code
        ranks = self._ranks() | self._dead(process)
        if code == -signal.SIGABRT and (odd := self.watcher.mismatch(ranks)):
            self._happened(events.Found(now_s=exited.now_s, finding=odd, generation=self.state.generation))
        self._happened(events.Tick(now_s=exited.now_s, step=self.watcher.last_step(ranks)))
        before = self.state
        self._happened(exited)
        if died_by_itself(before, exited) and not self.state.ended:
            rank = before.members.index(process)
            log = str(self.hands.home.log(process, rank))
            self._diagnosed(self.diagnoser.of_exit(rank, code, exited.words, log), before.generation)
        page_file(self.hands.home.live, process).unlink(missing_ok=True)

    def _diagnosed(self, diagnosis: Diagnosis, generation: int) -> None:
        """Healing has begun already: what is found here is told, and decides about the node."""
        best = diagnosis.best
        site = self.site.name
        self.journal.emit(
            told.Diagnosed(
                subject=f"site {site}" if best.rank is None else f"rank-{site}-{best.rank}",
                fault_class=best.kind or "",
                entry=best.entry,
                action=best.action,
                confidence=best.confidence,
                cause=diagnosis.cause,
                verify=diagnosis.verify,
                evidence=[f"{each.where}: {each.text}" for each in diagnosis.evidence],
            )
        )
        if best.action in ("replace_node", "quarantine"):
            now_s = time.monotonic()
            self._happened(events.Diagnosed(now_s=now_s, diagnosis=diagnosis, generation=generation))

    def _happened(self, event: events.AnyEvent) -> None:
        """One event after the other; what actions set off comes after what was there before."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending:
            self.state, wanted = decide(self.state, self._pending[0])
            self._carry_out(wanted)
            self._pending.pop(0)

    def _carry_out(self, wanted: list[actions.AnyAction]) -> None:
        """After what waits for the disk. An end waits for nothing: nobody will read the record."""
        ends = any(isinstance(action, actions.End) for action in wanted)
        is_told, due = bool(self._unsaved), wanted if ends else [*self._unsaved, *wanted]
        self._unsaved = []
        for index, action in enumerate(due):
            try:
                self._do(action)
            except StorageError as error:
                if not is_told:
                    subject = f"site {self.site.name}"
                    self.journal.emit(told.Fault(subject=subject, kind="disk", detail=str(error)))
                if not ends:
                    self._unsaved = due[index:]
                    return

    def _do(self, action: actions.AnyAction) -> None:
        match action:
            case (
                actions.Spawn(process=process) | actions.Tell(process=process) | actions.Kill(process=process)
            ) if (node := node_of(process)) != NODE:
                self._ask(node, action)
            case actions.Check(node=node) if node != NODE:
                self._ask(node, action)
            case actions.Spawn(process=process):
                self.hands.spawn(process)
            case actions.Tell(process=process, message=message):
                self.hands.tell(process, message)
            case actions.Kill(process=process):
                self._pending += self.hands.kill(process)
            case actions.Remember(record=record):
                DiskStore().write_atomic(self.site.record, msgspec.json.encode(record))
            case actions.Check():
                self.checker.begin()
            case actions.Emit():
                self._emit(action)
            case actions.End():
                self._end = action

    def _inject(self, rank: int, inject: Inject) -> None:
        """Pass a fault on to the process that holds the place now."""
        members = self.state.members
        if rank < len(members):
            self._tell(members[rank], inject)

    def _ask(self, node: str, action: actions.AnyAction) -> None:
        if self.nodes:
            self.nodes.do(node, action)

    def _tell(self, process: str, message: KeeperMessage) -> None:
        self._do(actions.Tell(process, message))

    def _emit(self, emit: actions.Emit) -> None:
        wall_s = time.time() - time.monotonic()
        site = f"site {self.site.name}"
        subjects = list(emit.subjects)
        match emit.kind:
            case "fault":
                for subject in subjects or [site]:
                    self.journal.emit(
                        told.Fault(
                            subject=subject,
                            kind=emit.what,
                            detail=emit.text.rstrip().rpartition("\n")[2],
                            began_s=wall_s + emit.began_s,
                        )
                    )
            case "healed":
                self.journal.emit(
                    told.Healed(
                        site=self.site.name,
                        subjects=subjects,
                        kind=emit.what,
                        generation=emit.generation,
                        step=emit.step,
                        lost_steps=emit.lost_steps,
                        began_s=wall_s + emit.began_s,
                        detected_s=wall_s + emit.detected_s,
                        diagnosed_s=wall_s + emit.diagnosed_s,
                        regrouped_s=wall_s + emit.regrouped_s,
                        resumed_s=wall_s + emit.resumed_s,
                    )
                )
            case _:
                level = "warning" if emit.kind == "alert" else "info"
                self.journal.emit(told.Note(level=level, text=f"{', '.join(subjects) or site}: {emit.text}"))

    def close(self) -> None:
        """Ends every process that is left."""
        if self.nodes:
            self.nodes.close(self._end or actions.End("failed", "ended at once", 130))
        self.hands.close()
        self.watcher.close()
        self.tails.close()
        self.checker.close()
        self.drills.close()


def died_by_itself(state: KeeperState, exited: events.Exited) -> bool:
    """A member that trained, or had said that an error ends it; not one that was killed, or left in order."""
    process = state.processes.get(exited.process)
    if process is None or process.id not in state.members or process.left or saved(state):
        return False
    return process.stage == "member" or exited.code not in (-signal.SIGKILL, None)


def node_of(process: str) -> str:
    """'b/1.2' -> 'b'."""
    return process.rpartition("/")[0]


def read_record(path: Path) -> actions.Record | None:
    """None where no keeper has been."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=actions.Record)
    except msgspec.MsgspecError as error:
        raise IsthmusError(
            f"the keeper's record cannot be read: {error}",
            where=str(path),
            hint="if no process of this site runs any more, delete it",
        ) from error
