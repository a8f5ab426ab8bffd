"""Messages between processes of one machine over a stream socket: `<u32 length><msgpack>`."""

import math
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

import msgspec

from isthmus.errors import UnreachableError

M = TypeVar("M")
_LENGTH = struct.Struct("<I")
_MAX_MESSAGE = 64 << 20


class LineClosedError(UnreachableError):
    """The process at the other end of the local line is gone."""


class Line(Generic[M]):
    """One sender, one receiver thread. A class for each use says what is spoken."""

    kind: Any
    """The messages that are understood: a union of tagged structs."""
    what: str
    """Who is at the other end, for errors."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._pending = bytearray()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(self.kind)

    @classmethod
    def dial(cls, path: str, timeout_s: float) -> Self:
        """Raises UnreachableError if nobody answers within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
                return cls(connection)
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise UnreachableError(
                        f"{cls.what} does not answer ({error})",
                        where=path,
                        hint="is it running? its log tells why it ended",
                    ) from error
            time.sleep(0.05)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Raises LineClosedError if the other end is gone."""
        body = self._encoder.encode(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise self._closed() from error

    def receive(self, timeout_s: float | None) -> list[M]:
        """Messages that are there after waiting at most `timeout_s` for the first (0: just look; None: for
        ever).

        Raises LineClosedError when the other end has closed, or sends what is no message.
        """
        if self._readable(timeout_s):
            try:
                data = self._socket.recv(1 << 20)
            except OSError as error:
                raise self._closed() from error
            if not data:
                raise self._closed()
            self._pending += data
        return list(self._complete())

    def _readable(self, timeout_s: float | None) -> bool:
        """`poll`, since `select` cannot watch descriptors above 1023."""
        try:
            watch = select.poll()
            watch.register(self._socket, select.POLLIN)
            return bool(watch.poll(None if timeout_s is None else math.ceil(1000 * timeout_s)))
        except (OSError, ValueError) as error:
            raise self._closed() from error

    def _complete(self) -> Iterator[M]:
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > _MAX_MESSAGE:
                raise LineClosedError(f"a local message of {length} bytes is not ours")
            if len(self._pending) < _LENGTH.size + length:
                return
            body = bytes(self._pending[_LENGTH.size : _LENGTH.size + length])
            del self._pending[: _LENGTH.size + length]
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise LineClosedError(f"a local message is not understood: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _closed(self) -> LineClosedError:
        return LineClosedError(f"{self.what} is gone", hint="see the logs in the run's folder")
