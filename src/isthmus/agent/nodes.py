"""The keeper's side of a site's other nodes: it listens, knows who is there, and speaks with their agents."""

import contextlib
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from isthmus.agent.mirror import Mirror
from isthmus.agent.node_line import NodeLine
from isthmus.agent.node_messages import Alive, FromNode, NodeHello, Pages, Refused, Welcome
from isthmus.errors import AuthError, UnreachableError
from isthmus.heal import actions, events
from isthmus.wire.handshake import Address
from isthmus.wire.line import LineClosedError
from isthmus.wire.tls import NodeTls

SILENT_S = 5.0
"""A node that has said nothing for so long is lost."""
CLOSED_S = 2.0
"""A node whose connection was closed may dial again for so long: its agent may have been restarted."""
SHAKE_S = 5.0
REFUSALS_S = 10.0
"""Connections that were refused are told of once in this time: whoever knocks must not fill the journal."""
MAX_STRANGERS = 32
MAX_NODES = 512
LAST_WORDS_S = 5.0


@dataclass(frozen=True)
class Terms:
    """On which nodes may join."""

    facts: dict[str, str]
    """Hashes of what is trained."""
    lease_s: float
    has_client: bool
    own: str
    """The name of the keeper's node."""


@dataclass
class _Node:
    hello: NodeHello
    line: NodeLine | None
    mirror: Mirror
    heard_s: float
    closed_s: float = 0.0
    processes: set[str] = field(default_factory=set)


@dataclass
class Nodes:
    """Owns the port, the lines and the copies of pages. `ready` for each readable descriptor, `turn` now and
    then; both return what has happened."""

    tls: NodeTls
    door: socket.socket
    terms: Terms
    live: Path
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=64))
    """Who came, was checked or was turned away, not told yet."""
    _strangers: dict[int, tuple[NodeLine, float]] = field(default_factory=dict)
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _refused: int = 0
    _tell_from_s: float = 0.0

    @property
    def descriptors(self) -> list[int]:
        lines = (node.line.fileno() for node in self._nodes.values() if node.line)
        return [self.door.fileno(), *self._strangers, *lines]

    @property
    def processes(self) -> set[str]:
        """That run on nodes which are there."""
        return set().union(*(node.processes for node in self._nodes.values() if node.line))

    def ready(self, descriptor: int) -> list[events.AnyEvent]:
        now_s = time.monotonic()
        if descriptor == self.door.fileno():
            self._accept(now_s)
        elif descriptor in self._strangers:
            return self._greet(descriptor, now_s)
        else:
            for node in self._nodes.values():
                if node.line and node.line.fileno() == descriptor:
                    return self._hear(node, now_s)
        return []

    def _accept(self, now_s: float) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.door.accept()
            if len(self._strangers) >= MAX_STRANGERS:
                connection.close()
                return
            line = NodeLine(connection, self.tls, accepted=True, kind=FromNode)
            self._strangers[line.fileno()] = (line, now_s)

    def _greet(self, descriptor: int, now_s: float) -> list[events.AnyEvent]:
        line, _ = self._strangers[descriptor]
        try:
            messages = line.receive() if line.shake() else []
        except (AuthError, LineClosedError) as error:
            self._turn_away(descriptor, f"{error.where or line.peer}: {error.message}")
            return []
        if not messages:
            return []
        hello, *rest = messages
        if not isinstance(hello, NodeHello):
            self._turn_away(descriptor, f"{line.peer}: it does not say who it is")
            return []
        if refused := self._refusal(hello):
            with contextlib.suppress(LineClosedError):
                line.send(refused)
            self._turn_away(descriptor, "" if refused.for_now else f"node {hello.node}: {refused.reason}")
            return []
        del self._strangers[descriptor]
        return [*self._take_in(hello, line, now_s), *self._take(self._nodes[hello.node], rest, now_s)]

    def _turn_away(self, descriptor: int, why: str) -> None:
        line, _ = self._strangers.pop(descriptor)
        line.close()
        if not why:
            return
        self._refused += 1
        now_s = time.monotonic()
        if now_s >= self._tell_from_s:
            others = f" ({self._refused - 1} more since the last word)" if self._refused > 1 else ""
            self.notes.append(f"a connection was refused: {why}{others}")
            self._refused, self._tell_from_s = 0, now_s + REFUSALS_S

    def _refusal(self, hello: NodeHello) -> Refused | None:
        known = self._nodes.get(hello.node)
        if hello.node == self.terms.own or "/" in hello.node or not hello.node:
            return Refused(f"'{hello.node}' cannot be the name of a node here", for_now=False)
        differs = [name for name, value in self.terms.facts.items() if hello.facts.get(name) != value]
        if differs:
            return Refused(f"it is to train something else: {', '.join(differs)} differ", for_now=False)
        if known and known.line and known.hello.agent != hello.agent:
            return Refused(f"there is a node '{hello.node}' already", for_now=True)
        if not known and len(self._nodes) >= MAX_NODES:
            return Refused(f"there are {MAX_NODES} nodes already", for_now=False)
        return None

    def _take_in(self, hello: NodeHello, line: NodeLine, now_s: float) -> list[events.AnyEvent]:
        known = self._nodes.get(hello.node)
        if known and known.line:
            known.line.close()
        mirror = known.mirror if known else Mirror(self.live)
        node = _Node(hello, line, mirror, now_s, processes=set(hello.processes))
        self._nodes[hello.node] = node
        self._say(
            node, Welcome(stamp_s=hello.stamp_s, lease_s=self.terms.lease_s, has_client=self.terms.has_client)
        )
        self.notes.append(f"node {hello.node} is there{', as a spare' * hello.spare}, at {hello.address}")
        joined = events.NodeJoined(
            now_s=now_s, node=hello.node, slots=hello.slots, spare=hello.spare, address=hello.address
        )
        there = (events.Started(now_s=now_s, process=name, node=hello.node) for name in hello.processes)
        return [joined, *there]

    def _hear(self, node: _Node, now_s: float) -> list[events.AnyEvent]:
        assert node.line
        try:
            return self._take(node, node.line.receive(), now_s)
        except (AuthError, LineClosedError):
            self._close(node, now_s)
            return []

    def _take(self, node: _Node, messages: list[object], now_s: float) -> list[events.AnyEvent]:
        heard: list[events.AnyEvent] = []
        if messages:
            node.heard_s = now_s
        for message in messages:
            match message:
                case Alive(stamp_s=stamp_s):
                    self._say(node, Alive(stamp_s, time.time()))
                case Pages():
                    self._mirror(node, message)
                case events.LeaveAsked():
                    heard.append(replace(message, now_s=now_s))
                case events.Checked():
                    how = "passed" if message.ok else "failed"
                    self.notes.append(f"node {node.hello.node} {how} its check: {message.text}")
                    heard.append(replace(message, now_s=now_s, node=node.hello.node))
                case events.Started() | events.Said() | events.Exited():
                    heard += self._about_process(node, message, now_s)
        return heard

    def _about_process(
        self, node: _Node, message: events.Started | events.Said | events.Exited, now_s: float
    ) -> list[events.AnyEvent]:
        """A node speaks for its own processes only."""
        if not message.process.startswith(f"{node.hello.node}/"):
            return []
        if isinstance(message, events.Exited):
            node.processes.discard(message.process)
            node.mirror.drop(message.process)
        else:
            node.processes.add(message.process)
        if isinstance(message, events.Started):
            message = replace(message, node=node.hello.node)
        return [replace(message, now_s=now_s)]

    def _mirror(self, node: _Node, pages: Pages) -> None:
        node.mirror.heard(pages.now_ns, time.monotonic_ns())
        for changes in pages.pages:
            if changes.process in node.processes:
                with contextlib.suppress(ValueError, OSError):
                    node.mirror.write(changes)

    def _close(self, node: _Node, now_s: float) -> None:
        if node.line:
            node.line.close()
        node.line, node.closed_s = None, now_s

    def _say(self, node: _Node, message: object) -> None:
        if node.line:
            try:
                node.line.send(message)
            except LineClosedError:
                self._close(node, time.monotonic())

    def turn(self) -> list[events.AnyEvent]:
        """Gives up lines that are silent."""
        now_s = time.monotonic()
        for descriptor, (line, since_s) in list(self._strangers.items()):
            if now_s > since_s + SHAKE_S:
                self._turn_away(descriptor, f"{line.peer}: it did not say who it is")
        lost: list[events.AnyEvent] = []
        for name, node in list(self._nodes.items()):
            self._flush(node, now_s)
            silent = now_s > node.heard_s + SILENT_S
            if silent or (node.line is None and now_s > node.closed_s + CLOSED_S):
                self._close(node, now_s)
                node.mirror.close()
                del self._nodes[name]
                lost.append(events.NodeLost(now_s=now_s, node=name))
        return lost

    def _flush(self, node: _Node, now_s: float) -> None:
        if node.line and node.line.has_unsent:
            try:
                node.line.flush()
            except LineClosedError:
                self._close(node, now_s)

    def do(self, name: str, action: actions.AnyAction) -> None:
        """Of a node that is out of reach nothing can be asked; that it is lost will be told."""
        if node := self._nodes.get(name):
            self._say(node, action)

    def close(self, end: actions.End) -> None:
        """Tells all that the site is over, and waits for a moment until they have ended their processes."""
        for node in self._nodes.values():
            self._say(node, end)
        deadline = time.monotonic() + LAST_WORDS_S
        while any(node.line for node in self._nodes.values()) and time.monotonic() < deadline:
            for node in self._nodes.values():
                self._flush(node, 0.0)
                if node.line:
                    self._hear(node, 0.0)
            time.sleep(0.01)
        for node in self._nodes.values():
            node.mirror.close()
            self._close(node, 0.0)
        for line, _ in self._strangers.values():
            line.close()
        self.door.close()


def listen_for_nodes(address: Address) -> socket.socket:
    """Raises UnreachableError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        door = socket.create_server(address, family=family, backlog=MAX_STRANGERS)
    except OSError as error:
        raise UnreachableError(
            f"cannot listen for the site's other nodes: {error.strerror or error}",
            where=f"{address[0]}:{address[1]}",
            hint="give --listen an address of this machine and a port that is free",
        ) from None
    door.setblocking(False)
    return door
