"""The executor of a site's keeper: it hears processes, exits and detectors, lets `heal.decide` decide, and
does what that says. It may be killed at any time: the ranks train on, and its next life finds them again.
"""

import contextlib
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from isthmus.agent.brood import Birth, Brood
from isthmus.agent.drills import Drills
from isthmus.agent.live import listen
from isthmus.agent.stacks import Stacks
from isthmus.agent.watch import Watcher
from isthmus.errors import CorruptError, IsthmusError, StorageError
from isthmus.faults.detect.process import read_process
from isthmus.faults.page import PageReader, page_file
from isthmus.heal import actions, events
from isthmus.heal.decide import decide
from isthmus.heal.lifeline import KeeperLine
from isthmus.heal.messages import Failed, Form, Hello, Inject, Leaving
from isthmus.heal.policy import Policy
from isthmus.heal.state import KeeperState, initial, recover
from isthmus.journal import events as told
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal
from isthmus.wire.line import LineClosedError

POLL_S = 0.05
NODE = "local"
LAST_LINES = 12


@dataclass(frozen=True)
class Site:
    """What is to be kept alive on this node."""

    name: str
    world_size: int
    folder: Path
    """The site's, in the run's."""
    live: Path
    birth: Callable[[str], Birth]
    """How a process of this id is made."""
    log: Callable[[str, int | None], Path]
    """Of a process, by the place it holds."""
    cpus: list[frozenset[int]]
    """Where each rank runs."""
    policy: Policy

    @property
    def record(self) -> Path:
        return self.folder / "keeper.json"


@dataclass
class Keeper:
    """Owns the door, the lines and the brood. `open`, then `turn` until it returns an End, then `close`."""

    site: Site
    journal: Journal
    brood: Brood
    watcher: Watcher
    stacks: Stacks
    drills: Drills
    leave_asked: str = ""
    state: KeeperState = field(init=False)
    _lines: dict[int, KeeperLine] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    """Process by the descriptor of its line."""
    _by_name: dict[str, KeeperLine] = field(default_factory=dict)
    _words: dict[str, str] = field(default_factory=dict)
    _pending: list[events.AnyEvent] = field(default_factory=list)
    _unsaved: list[actions.AnyAction] = field(default_factory=list)
    """Actions that wait for a record that the disk refused."""
    _end: actions.End | None = None
    _next_look_s: float = 0.0

    def open(self) -> None:
        """Takes up an earlier life's record, listens, and starts the nursery."""
        record = read_record(self.site.record)
        now_s = time.monotonic()
        if record is None:
            state = initial(self.site.name, self.site.world_size, self.site.policy)
            self.state = msgspec.structs.replace(state, now_s=now_s, since_s=now_s)
        else:
            self.state = recover(self.site.name, record, self.site.policy, now_s)
        self._selector = selectors.DefaultSelector()
        self._door = listen(self.site.live / "door.sock")
        self.brood.open()
        self._happened(events.NodeJoined(now_s=now_s, node=NODE, slots=self.site.world_size))
        self._meet_again(self.state.members)

    def _meet_again(self, processes: tuple[str, ...]) -> None:
        """Watch those of an earlier life before they say a word; one that died meanwhile never will."""
        for process in processes:
            page = page_file(self.site.live, process)
            if (pid := pid_of(page)) is None:
                continue
            if is_process(pid, process):
                self.brood.adopt(process, pid)
            if process not in self.brood.pids:
                page.unlink(missing_ok=True)
                words = "it ended while the site had no agent"
                now_s = time.monotonic()
                self._happened(events.Exited(now_s=now_s, process=process, code=None, words=words))

    def turn(self) -> actions.End | None:
        """Waits for something to happen, for at most `POLL_S`, and deals with it."""
        self._register()
        for key, _ in self._selector.select(POLL_S):
            self._ready(key.fd)
        now_s = time.monotonic()
        if self.leave_asked:
            self._happened(events.LeaveAsked(now_s=now_s, reason=self.leave_asked))
            self.leave_asked = ""
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + POLL_S
            self._look(now_s)
        return self._end

    def _look(self, now_s: float) -> None:
        state, ranks = self.state, self._ranks()
        for finding in self.watcher.look(ranks, state.generation):
            if finding.lasting and finding.rank is not None:
                self.stacks.take(finding.rank, ranks[finding.rank][1], state.generation)
            now_s = time.monotonic()
            self._happened(events.Found(now_s=now_s, finding=finding, generation=state.generation))
        for finding in self.watcher.take_ended():
            for rank in finding.suspects or (finding.rank,):
                subject = f"rank-{self.site.name}-{rank}"
                after_s = now_s - finding.began_s
                self.journal.emit(told.Recovered(subject=subject, kind=finding.kind, after_s=after_s))
        self.drills.due(now_s, self._inject)
        self._happened(events.Tick(now_s=now_s, step=self.watcher.step))

    def _ranks(self) -> dict[int, tuple[str, int]]:
        """Process and pid by rank, of those that live."""
        pids = self.brood.pids
        return {rank: (name, pids[name]) for rank, name in enumerate(self.state.members) if name in pids}

    def _dead(self, process: str) -> dict[int, tuple[str, int]]:
        members = self.state.members
        return {members.index(process): (process, 0)} if process in members else {}

    def _register(self) -> None:
        wanted = {self._door.fileno(), *self._lines, *self.brood.descriptors, *self.drills.descriptors}
        known = set(self._selector.get_map())
        for descriptor in known - wanted:
            self._selector.unregister(descriptor)
        for descriptor in wanted - known:
            self._selector.register(descriptor, selectors.EVENT_READ)

    def _ready(self, descriptor: int) -> None:
        now_s = time.monotonic()
        if descriptor == self._door.fileno():
            connection, _ = self._door.accept()
            line = KeeperLine(connection)
            self._lines[line.fileno()] = line
        elif descriptor in self._lines:
            self._hear(descriptor, now_s)
        elif descriptor in self.drills.descriptors:
            self.drills.hear(descriptor, now_s)
        elif exit_ := self.brood.reap(descriptor):
            self._gone(exit_.process, exit_.code, now_s)
        elif descriptor in self.brood.descriptors:
            for process in self.brood.hear():
                self._happened(events.Started(now_s=now_s, process=process, node=NODE))

    def _hear(self, descriptor: int, now_s: float) -> None:
        line = self._lines[descriptor]
        try:
            messages = line.receive(0)
        except LineClosedError:
            self._forget(descriptor)
            return
        for message in messages:
            if isinstance(message, Hello):
                self._greet(descriptor, line, message, now_s)
            process = self._names.get(descriptor)
            if process is None:
                continue  # nobody speaks before it has said who it is
            if isinstance(message, Failed | Leaving):
                self._words[process] = message.traceback if isinstance(message, Failed) else ""
            self._happened(events.Said(now_s=now_s, process=process, message=message))

    def _greet(self, descriptor: int, line: KeeperLine, hello: Hello, now_s: float) -> None:
        self._names[descriptor], self._by_name[hello.process] = hello.process, line
        if hello.process not in self.brood.pids:
            self.brood.adopt(hello.process, hello.pid)
            self._happened(events.Started(now_s=now_s, process=hello.process, node=NODE))

    def _forget(self, descriptor: int) -> None:
        line = self._lines.pop(descriptor)
        process = self._names.pop(descriptor, None)
        if process and self._by_name.get(process) is line:
            del self._by_name[process]
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)
        line.close()

    def _gone(self, process: str, code: int | None, now_s: float) -> None:
        """What it said last, still in its line, comes before its end."""
        line = self._by_name.get(process)
        if line is not None and line.fileno() in self._lines:
            self._hear(line.fileno(), now_s)
        words = self._words.pop(process, "") or self._last_words(process)
        if code == -signal.SIGABRT and (odd := self.watcher.mismatch(self._ranks() | self._dead(process))):
            self._happened(events.Found(now_s=now_s, finding=odd, generation=self.state.generation))
        self._happened(events.Exited(now_s=now_s, process=process, code=code, words=words))
        page_file(self.site.live, process).unlink(missing_ok=True)

    def _last_words(self, process: str) -> str:
        members = self.state.members
        log = self.site.log(process, members.index(process) if process in members else None)
        with contextlib.suppress(OSError):
            return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        return ""

    def _happened(self, event: events.AnyEvent) -> None:
        """One event after the other; what actions set off comes after what was there before."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending:
            self.state, wanted = decide(self.state, self._pending[0])
            self._carry_out([*self._unsaved, *wanted])
            self._pending.pop(0)

    def _carry_out(self, wanted: list[actions.AnyAction]) -> None:
        self._unsaved = []
        for index, action in enumerate(wanted):
            try:
                self._do(action)
            except StorageError as error:
                self.journal.emit(
                    told.Fault(subject=f"site {self.site.name}", kind="disk", detail=str(error))
                )
                self._unsaved = wanted[index:]
                return

    def _do(self, action: actions.AnyAction) -> None:
        now_s = time.monotonic()
        match action:
            case actions.Spawn(process=process):
                self.brood.bear(self.site.birth(process))
            case actions.Tell(process=process, message=message):
                self._tell(process, message)
            case actions.Kill(process=process):
                if not self.brood.kill(process):
                    self._pending.append(events.Exited(now_s=now_s, process=process, code=None))
            case actions.Remember(record=record):
                DiskStore().write_atomic(self.site.record, msgspec.json.encode(record))
            case actions.Check(node=node):
                self._pending.append(events.Checked(now_s=now_s, node=node, ok=True))
            case actions.Emit():
                self._emit(action)
            case actions.End():
                self._end = action

    def _inject(self, rank: int, inject: Inject) -> None:
        """Pass a fault on to the process that holds the place now."""
        members = self.state.members
        if rank < len(members):
            self._tell(members[rank], inject)

    def _tell(self, process: str, message: object) -> None:
        if isinstance(message, Form):
            self.brood.pin(process, self.site.cpus[message.rank])
        line = self._by_name.get(process)
        if line is not None:
            with contextlib.suppress(LineClosedError):
                line.send(message)

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
        self.brood.close()
        self.watcher.close()
        self.drills.close()
        self._door.close()
        for line in self._lines.values():
            line.close()


def pid_of(page: Path) -> int | None:
    """Of the process that writes this page; None where there is no page."""
    with contextlib.suppress(FileNotFoundError, CorruptError):
        reader = PageReader(page)
        try:
            return reader.read().pid
        finally:
            reader.close()
    return None


def is_process(pid: int, process: str) -> bool:
    """It lives and goes by this name: a number may have been given away again."""
    known = read_process(pid)
    if known is None or known.letter in "ZX":
        return False
    with contextlib.suppress(OSError):
        return process.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").split()
    return False


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
