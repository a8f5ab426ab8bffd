"""What `shaper` relays through: one direction of a link, and a connection's bytes in that direction."""

import socket
from collections import deque
from dataclasses import dataclass, field

HORIZON_S = 0.01
"""No more is read from anyone while this much of the link's time is booked ahead."""
_PIECE_S = 0.004
_MAX_PIECE = 256 << 10
_MIN_PIECE = 4 << 10
MAX_QUEUED = 8 << 20


@dataclass
class Direction:
    bytes_per_s: float
    """0: no limit."""
    delay_s: float
    free_s: float = 0.0
    passed: int = 0

    @property
    def piece(self) -> int:
        if not self.bytes_per_s:
            return _MAX_PIECE
        return int(min(_MAX_PIECE, max(_MIN_PIECE, self.bytes_per_s * _PIECE_S)))

    def book(self, now_s: float, num_bytes: int) -> float:
        """When bytes that are handed in now leave on the far side."""
        self.passed += num_bytes
        if self.bytes_per_s:
            self.free_s = max(now_s, self.free_s) + num_bytes / self.bytes_per_s
        return max(now_s, self.free_s) + self.delay_s


@dataclass
class Pipe:
    """Bytes from one socket to the other."""

    source: socket.socket
    drain: socket.socket
    direction: Direction
    queue: deque[tuple[float, memoryview]] = field(default_factory=deque)
    queued: int = 0
    ended: bool = False
    blocked: bool = False
    shut: bool = False

    def may_read(self, now_s: float) -> bool:
        return not self.ended and self.queued < MAX_QUEUED and self.direction.free_s - now_s < HORIZON_S

    def read(self, now_s: float) -> None:
        data = self.source.recv(self.direction.piece)
        if not data:
            self.ended = True
            return
        self.queue.append((self.direction.book(now_s, len(data)), memoryview(data)))
        self.queued += len(data)

    def write(self, now_s: float) -> None:
        """Hands over what is due."""
        self.blocked = False
        while self.queue and self.queue[0][0] <= now_s:
            due_s, data = self.queue[0]
            try:
                sent = self.drain.send(data)
            except BlockingIOError:
                self.blocked = True
                return
            self.queued -= sent
            if sent < len(data):
                self.queue[0] = (due_s, data[sent:])
            else:
                self.queue.popleft()
        if self.ended and not self.queue and not self.shut:
            self.shut = True
            self.drain.shutdown(socket.SHUT_WR)

    def give_up(self) -> None:
        """The drain takes no more: what is queued is lost."""
        self.queue.clear()
        self.queued = 0
        self.ended = self.shut = True
