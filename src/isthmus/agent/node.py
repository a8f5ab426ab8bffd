"""A node's agent: the hands of a keeper on another machine.

It relays what its processes say, starts, places and kills them as it is told, and shows their pages. It dials
the keeper again for as long as it lives; while it does not reach it the ranks train on, until the lease is
over: then they are killed, since the site may go on without them.
"""

import contextlib
import queue
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field

from isthmus.agent.brood import readable
from isthmus.agent.checks import Checker
from isthmus.agent.hands import Hands
from isthmus.agent.mirror import PageTeller
from isthmus.agent.node_line import NodeLine
from isthmus.agent.node_messages import Alive, NodeHello, Pages, Refused, ToNode, Welcome
from isthmus.errors import AuthError, InputError, IsthmusError
from isthmus.faults.burn_report import BurnReport
from isthmus.faults.page import page_file
from isthmus.heal import actions, events
from isthmus.heal.policy import Policy
from isthmus.wire.handshake import Address
from isthmus.wire.line import LineClosedError
from isthmus.wire.tls import NodeTls

PAGES_S = 0.05
ALIVE_S = 1.0
SILENT_S = 5.0
DIAL_S = 3.0
BACKOFF_S = (0.05, 2.0)
"""Before the first dial after a line was lost, and the longest."""
POLL_S = 0.05


@dataclass(frozen=True)
class Joining:
    """As what a node joins, and where."""

    node: str
    keeper: Address
    tls: NodeTls
    slots: int
    spare: bool
    facts: dict[str, str]
    address: str = ""
    """As the others reach it; '': the one by which it reaches the keeper."""


@dataclass
class Dialler:
    """Connects in a thread of its own, so that nothing else waits for it."""

    address: Address
    _found: "queue.SimpleQueue[socket.socket | OSError]" = field(default_factory=queue.SimpleQueue)
    _busy: bool = False
    _pause_s: float = 0.0
    _next_s: float = 0.0

    def poll(self, now_s: float) -> socket.socket | None:
        """A connection, once there is one; the next dial begins when it is due."""
        with contextlib.suppress(queue.Empty):
            found = self._found.get_nowait()
            self._busy = False
            if isinstance(found, socket.socket):
                return found
            self.again(now_s)
        if not self._busy and now_s >= self._next_s:
            self._busy = True
            threading.Thread(target=self._dial, name="dial", daemon=True).start()
        return None

    def again(self, now_s: float) -> None:
        """After a pause that grows."""
        first_s, longest_s = BACKOFF_S
        self._pause_s = min(longest_s, max(first_s, 2 * self._pause_s))
        self._next_s = now_s + self._pause_s

    def reached(self) -> None:
        """The next pause is short again."""
        self._pause_s = 0.0

    def _dial(self) -> None:
        try:
            self._found.put(socket.create_connection(self.address, DIAL_S))
        except OSError as error:
            self._found.put(error)


@dataclass
class Node:
    """Owns the hands and the line to the keeper. `open`, `turn` until it returns an End, then `close`."""

    joining: Joining
    hands: Hands
    checker: Checker
    checked: BurnReport | None = None
    """The check it made before it joined."""
    leave_asked: str = ""
    has_client: bool = False
    """See `Welcome`; known once the keeper was reached."""
    lease_s: float = Policy().lease_s
    _line: NodeLine | None = None
    _in: bool = False
    """The keeper has said welcome on this line."""
    _agent: str = field(default_factory=lambda: secrets.token_hex(4))
    _confirmed_s: float = field(default_factory=time.monotonic)
    """When the keeper has certainly heard of us last, by our clock."""
    _heard_s: float = 0.0
    _alive_s: float = 0.0
    _pages_s: float = 0.0
    _end: actions.End | None = None
    _last_refusal: str = ""

    def open(self) -> None:
        self._dialler = Dialler(self.joining.keeper)
        self._pages = PageTeller(self.hands.home.live)
        self.hands.open()

    def turn(self) -> actions.End | None:
        """Waits for something to happen, for at most `POLL_S`, and deals with it."""
        for descriptor in readable(self._descriptors(), POLL_S):
            self._ready(descriptor)
        now_s = time.monotonic()
        self._keep_line(now_s)
        self._keep_lease(now_s)
        if report := self.checker.done():
            self._tell(events.Checked(now_s=now_s, node=self.joining.node, ok=report.ok, text=report.text))
        if self._in and now_s >= self._pages_s:
            self._pages_s = now_s + PAGES_S
            self._show_pages()
        if self.leave_asked:
            self._leave(now_s)
        return self._end

    def _leave(self, now_s: float) -> None:
        """With ranks here the whole site saves and ends; else this node just goes."""
        if not self.hands.ranks:
            self._end = actions.End("done", self.leave_asked, 0)
        elif self._in:
            self._tell(events.LeaveAsked(now_s=now_s, reason=self.leave_asked))
            self.leave_asked = ""

    def _descriptors(self) -> list[int]:
        """Who wants to speak waits at the door until there is somebody to tell."""
        door = [self.hands.door] if self._in else []
        line = [self._line.fileno()] if self._line else []
        return [*self.hands.descriptors, *door, *line]

    def _ready(self, descriptor: int) -> None:
        if self._line and descriptor == self._line.fileno():
            self._hear()
        elif descriptor in self.hands.descriptors or (self._in and descriptor == self.hands.door):
            for event in self.hands.ready(descriptor):
                self._tell(event)
                if isinstance(event, events.Exited):
                    page_file(self.hands.home.live, event.process).unlink(missing_ok=True)

    def _tell(self, message: object) -> None:
        if self._line and self._in:
            try:
                self._line.send(message)
            except LineClosedError:
                self._hang_up()

    # ---- the line

    def _keep_line(self, now_s: float) -> None:
        if self._line is None:
            if connection := self._dialler.poll(now_s):
                self._open_line(connection, now_s)
            return
        if now_s > self._heard_s + SILENT_S:
            self._hang_up()
        elif self._in and now_s >= self._alive_s:
            self._alive_s = now_s + ALIVE_S
            self._tell(Alive(now_s))
        elif self._line.has_unsent:
            try:
                self._line.flush()
            except LineClosedError:
                self._hang_up()

    def _open_line(self, connection: socket.socket, now_s: float) -> None:
        try:
            self._line = NodeLine(connection, self.joining.tls, accepted=False, kind=ToNode)
        except OSError:  # it was reset already
            connection.close()
            self._dialler.again(now_s)
            return
        self._heard_s = now_s
        self._hear()

    def _hang_up(self) -> None:
        if self._line:
            self._line.close()
        self._line = None
        if self._in:
            self.hands.hang_up()
        self._in = False
        self._dialler.again(time.monotonic())

    def _hear(self) -> None:
        assert self._line
        try:
            if not self._line.proven:
                if not self._line.shake():
                    return
                self._line.send(self._hello())
            for message in self._line.receive():
                self._heard_s = time.monotonic()
                self._take(message)
        except LineClosedError:
            self._hang_up()
        except AuthError as error:
            if self._in:  # it knew us: what came was broken on its way
                self._hang_up()
                return
            raise AuthError(
                error.message,
                where=error.where,
                hint="both nodes need the folder of this site that `isthmus certs init` made",
            ) from None

    def _hello(self) -> NodeHello:
        assert self._line
        return NodeHello(
            node=self.joining.node,
            agent=self._agent,
            slots=self.joining.slots,
            spare=self.joining.spare,
            address=self.joining.address or self._line.address,
            facts=self.joining.facts,
            processes=list(self.hands.brood.pids),
            stamp_s=time.monotonic(),
            checked=self.checked,
        )

    def _take(self, message: object) -> None:
        match message:
            case Welcome():
                self._in = True
                self._confirmed_s = max(self._confirmed_s, message.stamp_s)
                self.has_client, self.lease_s = message.has_client, message.lease_s
                self._pages.again()
                self._dialler.reached()
                self._last_refusal = ""
            case Refused(reason=reason, for_now=for_now):
                if not for_now:
                    raise InputError(
                        f"the site's keeper does not take this node: {reason}", where=self.joining.node
                    )
            case Alive(stamp_s=stamp_s, wall_s=wall_s):
                self._confirmed_s = max(self._confirmed_s, stamp_s)
                self.checker.keeper_clock(wall_s, time.monotonic() - stamp_s)
            case actions.End():
                self._end = message
            case _:
                self._do(message)

    def _do(self, action: object) -> None:
        match action:
            case actions.Spawn(process=process):
                try:
                    self.hands.spawn(process)
                except IsthmusError as error:
                    self._tell(
                        events.Exited(now_s=time.monotonic(), process=process, code=None, words=str(error))
                    )
            case actions.Tell(process=process, message=message):
                self.hands.tell(process, message)
            case actions.Kill(process=process):
                for event in self.hands.kill(process):
                    self._tell(event)
            case actions.Check():
                self.checker.begin()

    # ---- what is due

    def _keep_lease(self, now_s: float) -> None:
        """The keeper may have given our ranks up, and made a group of others."""
        if now_s > self._confirmed_s + self.lease_s and self.hands.brood.pids:
            for process in list(self.hands.brood.pids):
                self.hands.kill(process)

    def _show_pages(self) -> None:
        changes = self._pages.changes(set(self.hands.ranks) & set(self.hands.brood.pids))
        if changes:
            self._tell(Pages(time.monotonic_ns(), changes))

    def close(self) -> None:
        """Ends every process that is left."""
        self.checker.close()
        self.hands.close()
        if self._line:
            self._line.close()
