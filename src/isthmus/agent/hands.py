"""What a node does for its site's keeper, whether that is in this process or on another machine: starts,
places, kills and hears the node's processes.
"""

import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from isthmus.agent.brood import Brood
from isthmus.agent.earlier import is_process, pid_of
from isthmus.agent.home import Home
from isthmus.agent.live import listen
from isthmus.faults.page import page_file
from isthmus.heal import events
from isthmus.heal.lifeline import KeeperLine
from isthmus.heal.messages import Failed, Form, Hello, KeeperMessage, Leaving
from isthmus.wire.line import LineClosedError

LAST_LINES = 12
SEND_S = 1
"""Until a process that reads nothing is told nothing more: nobody else waits for it any longer."""
_SEND = struct.pack("ll", SEND_S, 0)
NodeEvent = events.Started | events.Said | events.Exited


@dataclass
class Hands:
    """Owns the door, the lines and the brood. `open`, then `ready` for each readable descriptor, `close`."""

    home: Home
    brood: Brood
    _door: socket.socket | None = None
    _lines: dict[int, KeeperLine] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    """Process by the descriptor of its line."""
    _by_name: dict[str, KeeperLine] = field(default_factory=dict)
    _words: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    """The place of each process that was told one."""
    _seats: dict[str, int] = field(default_factory=dict)
    """Which of the node's shares of CPUs a process has."""

    def open(self) -> None:
        self._door = listen(self.home.live / "door.sock")
        self.brood.open()

    def meet_again(self, processes: Sequence[str]) -> list[NodeEvent]:
        """Watch those of an earlier life before they say a word; one that died meanwhile never will."""
        gone: list[NodeEvent] = []
        for process in processes:
            page = page_file(self.home.live, process)
            if (pid := pid_of(page)) is None:
                continue
            if is_process(pid, process):
                self.brood.adopt(process, pid)
            if process not in self.brood.pids:
                page.unlink(missing_ok=True)
                words = "it ended while the site had no agent"
                gone.append(events.Exited(now_s=monotonic(), process=process, code=None, words=words))
        return gone

    @property
    def door(self) -> int:
        """Readable when a process wants to speak."""
        assert self._door
        return self._door.fileno()

    @property
    def descriptors(self) -> list[int]:
        """Of what processes say, and of their ends."""
        return [*self._lines, *self.brood.descriptors]

    def ready(self, descriptor: int) -> list[NodeEvent]:
        """One of the descriptors can be read."""
        if self._door and descriptor == self.door:
            connection, _ = self._door.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND)
            line = KeeperLine(connection)
            self._lines[line.fileno()] = line
        elif descriptor in self._lines:
            return self._hear(descriptor)
        elif exit_ := self.brood.reap(descriptor):
            return self._gone(exit_.process, exit_.code)
        elif descriptor in self.brood.answers:
            return [self._started(process) for process in self.brood.hear()]
        return []

    def _started(self, process: str) -> events.Started:
        return events.Started(now_s=monotonic(), process=process, node=self.home.node)

    def _hear(self, descriptor: int) -> list[NodeEvent]:
        line = self._lines[descriptor]
        try:
            messages = line.receive(0)
        except LineClosedError:
            self._forget(descriptor)
            return []
        heard: list[NodeEvent] = []
        for message in messages:
            if isinstance(message, Hello):
                heard += self._greet(descriptor, line, message)
            process = self._names.get(descriptor)
            if process is None:
                continue  # nobody speaks before it has said who it is
            if isinstance(message, Failed | Leaving):
                self._words[process] = message.traceback if isinstance(message, Failed) else ""
            heard.append(events.Said(now_s=monotonic(), process=process, message=message))
        return heard

    def _greet(self, descriptor: int, line: KeeperLine, hello: Hello) -> list[NodeEvent]:
        self._names[descriptor], self._by_name[hello.process] = hello.process, line
        if hello.rank >= 0:
            self.ranks.setdefault(hello.process, hello.rank)
        if hello.process in self.brood.pids:
            return []
        self.brood.adopt(hello.process, hello.pid)
        return [self._started(hello.process)]

    def _forget(self, descriptor: int) -> None:
        line = self._lines.pop(descriptor)
        process = self._names.pop(descriptor, None)
        if process and self._by_name.get(process) is line:
            del self._by_name[process]
        line.close()

    def hang_up(self) -> None:
        """Closes all lines: the processes dial again, and say once more who they are and how they stand."""
        for descriptor in list(self._lines):
            self._forget(descriptor)

    def _gone(self, process: str, code: int | None) -> list[NodeEvent]:
        """What it said last, still in its line, comes before its end."""
        line, heard = self._by_name.get(process), list[NodeEvent]()
        if line is not None and line.fileno() in self._lines:
            heard = self._hear(line.fileno())
        words = self._words.pop(process, "") or self._last_words(process)
        if code is not None and code < 0:
            words += f"\nexit code {code}"  # what it printed before tells nothing of why
        self.ranks.pop(process, None)
        self._seats.pop(process, None)
        return [*heard, events.Exited(now_s=monotonic(), process=process, code=code, words=words)]

    def _last_words(self, process: str) -> str:
        log = self.home.log(process, self.ranks.get(process))
        with contextlib.suppress(OSError):
            return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        return ""

    def spawn(self, process: str) -> None:
        self.brood.bear(self.home.birth(process))

    def tell(self, process: str, message: KeeperMessage) -> None:
        """Who gets a place gets CPUs of its own with it."""
        if isinstance(message, Form):
            self.ranks[process] = message.rank
            self.brood.pin(process, self._share(process))
        line = self._by_name.get(process)
        if line is not None:
            try:
                line.send(message)
            except LineClosedError:  # gone, or stopped: if it goes on, it dials again and is told all
                self._forget(line.fileno())

    def _share(self, process: str) -> frozenset[int]:
        if process not in self._seats:
            free = set(range(len(self.home.cpus))) - set(self._seats.values())
            if not free:
                return frozenset()
            self._seats[process] = min(free)
        return self.home.cpus[self._seats[process]]

    def kill(self, process: str) -> list[NodeEvent]:
        """Its end is told when it was seen; where there is none, now."""
        if self.brood.kill(process):
            return []
        return [events.Exited(now_s=monotonic(), process=process, code=None)]

    def close(self) -> None:
        """Ends every process that is left."""
        self.brood.close()
        if self._door:
            self._door.close()
        self.hang_up()
