"""Faults that were asked for: taken in at a socket of their own, kept until they are due, and passed on."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.agent.live import listen
from isthmus.errors import IsthmusError
from isthmus.faults.inject.kinds import KINDS, refusal
from isthmus.faults.inject.messages import InjectReply, InjectRequest
from isthmus.heal.inject import act
from isthmus.heal.messages import Inject
from isthmus.rundir import RunDir
from isthmus.train.checkpoint import CHECKPOINTS
from isthmus.wire.line import Line, LineClosedError

PassOn = Callable[[int, Inject], None]
"""(rank, fault)"""


class DrillLine(Line[InjectRequest]):
    kind = InjectRequest
    what = "the command"


@dataclass
class Drills:
    """Owns the socket."""

    run: RunDir
    site: str
    num_ranks: int
    door: socket.socket
    _lines: dict[int, DrillLine] = field(default_factory=dict)
    _waiting: list[tuple[float, InjectRequest]] = field(default_factory=list)

    @classmethod
    def open(cls, run: RunDir, site: str, live: Path, num_ranks: int) -> "Drills":
        path = live / "drill.sock"
        door = listen(path)
        run.agent_address(site).write_text(str(path), encoding="utf-8")
        return cls(run, site, num_ranks, door)

    @property
    def descriptors(self) -> Iterable[int]:
        return [self.door.fileno(), *self._lines]

    def hear(self, descriptor: int, now_s: float) -> None:
        """One of the descriptors can be read."""
        if descriptor == self.door.fileno():
            connection, _ = self.door.accept()
            line = DrillLine(connection)
            self._lines[line.fileno()] = line
            return
        line = self._lines[descriptor]
        try:
            for request in line.receive(0):
                line.send(self._accept(request, now_s))
        except LineClosedError:
            del self._lines[descriptor]
            line.close()

    def _accept(self, request: InjectRequest, now_s: float) -> InjectReply:
        why = refusal(request.kind, request.value, request.at, request.at_step)
        if not why and not 0 <= request.rank < self.num_ranks:
            why = f"there is no rank {request.rank}: this site has {self.num_ranks}"
        if why:
            return InjectReply(ok=False, text=why)
        self._waiting.append((now_s + max(0.0, request.at_s), request))
        return InjectReply(ok=True, text=f"{request.kind} for rank {request.rank} of {self.site}")

    def due(self, now_s: float, pass_on: PassOn) -> None:
        """Makes what is due; rank's own faults are passed on."""
        ready = [request for at_s, request in self._waiting if at_s <= now_s]
        self._waiting = [(at_s, request) for at_s, request in self._waiting if at_s > now_s]
        for request in ready:
            actor = KINDS[request.kind].actor
            if actor == "agent":
                os.kill(os.getpid(), signal.SIGKILL)
            elif actor == "relay":
                with contextlib.suppress(IsthmusError):
                    folder = self.run.site(self.site) / CHECKPOINTS
                    act(request.kind, request.value, self.run.relays(self.site), folder)
            else:
                pass_on(
                    request.rank,
                    Inject(request.kind, at_step=request.at_step, value=request.value, at=request.at),
                )

    def close(self) -> None:
        self.door.close()
        for line in self._lines.values():
            line.close()
        self.run.agent_address(self.site).unlink(missing_ok=True)
