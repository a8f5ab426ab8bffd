"""One connection: blocking frames in and out, without copying payloads, over plain sockets or TLS.

A channel is written by one thread and read by one thread at most; under TLS only one of the two, since
OpenSSL forbids a read and a write at the same time.
"""

import contextlib
import select
import socket
import ssl
import struct
import time

from isthmus.wire import frames
from isthmus.wire.frames import HEADER_BYTES, Buffer, FrameError, Header, Kind

_TCP_INFO = struct.Struct("<8B24I")
_DRAUGHT_BYTES = 128 << 10
_SLOW_BYTES_PER_S = 100e6
"""Below this a reader outruns its link so far that it mostly wakes and sleeps."""


class Channel:
    """Owns the socket. `cut` may be called from any thread and ends blocked calls; `close` only after
    that."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.bytes_out = 0
        self.bytes_in = 0
        """Frames with their headers, above TLS."""
        self.heard_s = time.monotonic()
        """When bytes last arrived."""
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._slow = False
        self._arrival = select.poll()
        self._arrival.register(sock, select.POLLIN)

    def send(
        self, kind: Kind, payload: Buffer = b"", *, key: int = 0, offset: int = 0, stream: int = 0
    ) -> None:
        """Sends header and payload; the payload goes to the kernel from where it lies."""
        header = frames.encode(kind, payload, stream=stream, key=key, offset=offset)
        if self.tls:
            self.sock.sendall(header)
            if payload:
                self.sock.sendall(payload)
        else:
            self._send_both(header, payload)
        self.bytes_out += len(header) + len(payload)

    def _send_both(self, header: bytes, payload: Buffer) -> None:
        sent = self.sock.sendmsg([header, payload])
        if sent < len(header):
            self.sock.sendall(header[sent:])
            sent = len(header)
        if sent < len(header) + len(payload):
            self.sock.sendall(memoryview(payload)[sent - len(header) :])

    def read_into(self, view: memoryview) -> None:
        """Fills `view`. Raises ConnectionError at the end of the stream."""
        position, size = 0, len(view)
        receive = self.sock.recv_into
        start_s = time.monotonic()
        here = 0 if self._slow and size >= _DRAUGHT_BYTES else size
        while position < size:
            if position >= here:
                here = position + self._await(size - position)
            count = receive(view[position:])
            if not count:
                raise ConnectionResetError("the other side closed the connection")
            position += count
            self.heard_s = time.monotonic()
        self.bytes_in += size
        if size >= _DRAUGHT_BYTES:
            self._slow = size < _SLOW_BYTES_PER_S * (self.heard_s - start_s)

    def _await(self, count: int) -> int:
        """Sleeps until `count` bytes or a good part of them are here; returns how many.

        On a slow link most of a reader's CPU time goes into waking up for the next few bytes. The mark goes
        down again at once, as the kernel wakes nobody below it, not even who waits for less.
        """
        held = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        draught = min(count - held, _DRAUGHT_BYTES)
        if draught > 0:
            timeout_s = self.sock.gettimeout()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, draught)
            self._arrival.poll(None if timeout_s is None else timeout_s * 1000)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return held + draught

    def read_header(self) -> Header:
        self.read_into(self._header)
        return frames.decode(self._header)

    def read_frame(self) -> tuple[Header, bytearray]:
        """One whole frame. Raises FrameError if its checksum is wrong."""
        header = self.read_header()
        payload = bytearray(header.length)
        self.read_into(memoryview(payload))
        if not frames.intact(header, payload):
            raise FrameError(f"{header.kind.name} does not match its checksum")
        return header, payload

    def cut(self) -> None:
        """Ends the connection without a word, from any thread."""
        with contextlib.suppress(OSError):
            # SSLSocket.shutdown would drop encryption first and let a running `send` go out in the clear.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


def tune(sock: socket.socket, congestion: str, silence_s: float) -> None:
    """No delay for small frames, kernel timers against a silent cut, congestion control where it is
    offered."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(silence_s)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(silence_s / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence_s * 2000))
    if congestion and hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())


def congestion_control(sock: socket.socket) -> str:
    """What the kernel really uses on this socket, '' where it does not say."""
    if not hasattr(socket, "TCP_CONGESTION"):
        return ""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def tcp_counters(sock: socket.socket) -> dict[str, int]:
    """`mss`, `pmtu` (bytes), `segments_out`, `retransmitted` since the connection began; empty off Linux."""
    if not hasattr(socket, "TCP_INFO"):
        return {}
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < 140:
        return {}
    fields = _TCP_INFO.unpack_from(info)[8:]
    return {
        "mss": fields[2],
        "pmtu": fields[13],
        "retransmitted": fields[23],
        "segments_out": struct.unpack_from("<I", info, 136)[0],
    }
