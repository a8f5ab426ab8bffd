"""The control connection: both directions at once in one thread, with a bounded queue on the way out."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque

from isthmus.wire.channel import Channel
from isthmus.wire.frames import Header, Parser

MAX_QUEUED_BYTES = 64 << 20
MAX_QUEUED_FRAMES = 1 << 16
_READ_BYTES = 256 << 10
_JOIN_BYTES = 64 << 10
_READS_PER_TURN = 16


class Control:
    """`queue` and `wake` may be called from any thread, the rest only from the one that owns it."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._sock = channel.sock
        self._lock = threading.Lock()
        self._out: deque[bytes] = deque()
        self._queued_bytes = 0
        self._current = memoryview(b"")
        self._blocked = False
        self._unread = False
        self._owner = 0
        self._parser = Parser()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._awake, self._waker = socket.socketpair()
        self._awake.setblocking(False)
        self._waker.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._awake, select.POLLIN)
        self._poll.register(self._sock, select.POLLIN)

    def start(self) -> None:
        """From here on the connection belongs to this object, and the object to this thread."""
        self._owner = threading.get_ident()
        self._sock.setblocking(False)

    def queue(self, frame: bytes) -> bool:
        """False when the other side reads so slowly that the queue is full: the link is as good as dead."""
        with self._lock:
            if len(self._out) >= MAX_QUEUED_FRAMES or self._queued_bytes + len(frame) > MAX_QUEUED_BYTES:
                return False
            self._out.append(frame)
            self._queued_bytes += len(frame)
        if threading.get_ident() != self._owner:  # which sends first thing in its next turn anyway
            self.wake()
        return True

    def wake(self) -> None:
        """Makes a running `turn` return. Once closed this does nothing; a full pipe wakes all the same."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def turn(self, timeout_s: float) -> list[tuple[Header, bytes]]:
        """Sends what it can, waits at most `timeout_s` for something to happen, returns the frames that came.

        Raises OSError or FrameError when the connection is lost."""
        self._flush()
        interest = select.POLLIN | (select.POLLOUT if self._blocked else 0)
        self._poll.modify(self._sock, interest)
        ready = self._poll.poll(0 if self._unread else max(0.0, timeout_s) * 1000)
        if any(number == self._awake.fileno() for number, _ in ready):
            with contextlib.suppress(BlockingIOError):
                self._awake.recv(4096)
        self._flush()
        return self._read()

    def drain(self, timeout_s: float) -> None:
        """Sends what is queued, for at most `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            self._flush()
            while self._blocked and time.monotonic() < deadline_s:
                self._poll.modify(self._sock, select.POLLOUT)
                self._poll.poll(50)
                self._flush()

    def hang_up(self, timeout_s: float) -> None:
        """Says that nothing more comes, and waits until the other side has read all and hung up too."""
        deadline_s = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            self._poll.modify(self._sock, select.POLLIN)
            while (left_s := deadline_s - time.monotonic()) > 0:
                self._poll.poll(left_s * 1000)
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    if not self._sock.recv_into(self._buffer):
                        return

    def close(self) -> None:
        for sock in (self._awake, self._waker):
            sock.close()
        self._channel.close()

    def _flush(self) -> None:
        self._blocked = False
        while True:
            if not self._current:
                self._current = self._take()
                if not self._current:
                    return
            try:
                sent = self._sock.send(self._current)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._blocked = True
                return
            except ssl.SSLWantReadError:
                return
            self._channel.bytes_out += sent
            self._current = self._current[sent:]

    def _take(self) -> memoryview:
        """The next frames in one piece: small ones travel together."""
        with self._lock:
            pieces, size = [], 0
            while self._out and (not pieces or size + len(self._out[0]) <= _JOIN_BYTES):
                piece = self._out.popleft()
                pieces.append(piece)
                size += len(piece)
            self._queued_bytes -= size
        return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _read(self) -> list[tuple[Header, bytes]]:
        frames: list[tuple[Header, bytes]] = []
        self._unread = True
        for _ in range(_READS_PER_TURN):
            try:
                count = self._sock.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._unread = False
                break
            if not count and frames:
                break  # the last words first; the next turn meets the end again
            if not count:
                raise ConnectionResetError("the other side closed the connection")
            self._channel.heard_s = time.monotonic()
            self._channel.bytes_in += count
            frames += self._parser.feed(self._buffer[:count])
        return frames
