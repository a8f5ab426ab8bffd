"""One end of the TLS line between a keeper and a node's agent. Nothing here waits: what cannot be sent yet is
kept, up to a bound; a line that stands still for longer is given up.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from isthmus.errors import AuthError
from isthmus.wire.line import LineClosedError
from isthmus.wire.tls import NodeTls

MAX_UNSENT = 16 << 20
MAX_MESSAGE = 4 << 20
_PIECE = 1 << 14
_LENGTH = struct.Struct("<I")


class NodeLine:
    """Owns the socket.

    Args:
        connection: connected or accepted, not encrypted yet.
        accepted: this side has listened.
        kind: the messages that the other side may say.
    """

    def __init__(self, connection: socket.socket, tls: NodeTls, accepted: bool, kind: Any):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = tls
        self._socket = tls.wrap(connection, accepted)
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._encoder = msgspec.msgpack.Encoder()
        self._unsent, self._pending = bytearray(), bytearray()
        self.proven = False
        """The other side has shown that it is of our site."""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def address(self) -> str:
        """Of this side."""
        return self._socket.getsockname()[0]

    @property
    def peer(self) -> str:
        with contextlib.suppress(OSError):
            host, port = self._socket.getpeername()[:2]
            return f"{host}:{port}"
        return "somebody"

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def shake(self) -> bool:
        """As much of the handshake as can be done now; whether it is over.

        Raises AuthError, LineClosedError.
        """
        if self.proven:
            return True
        try:
            self._socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except ssl.SSLEOFError:  # the other process ended, or has no room for us now: that is no refusal
            raise LineClosedError("the connection was closed in its handshake", where=self.peer) from None
        except ssl.SSLError as error:
            text = f"not one of this site's nodes: {error.reason or error}"
            raise AuthError(text, where=self.peer) from None
        except (OSError, ValueError) as error:
            raise LineClosedError(f"the connection broke off: {error}", where=self.peer) from None
        self._tls.check(self._socket)
        self.proven = True
        return True

    def send(self, message: object) -> None:
        """Now or as soon as it can be sent (see `flush`). Raises LineClosedError where the other side is gone
        or does not read."""
        body = self._encoder.encode(message)
        if len(self._unsent) + len(body) > MAX_UNSENT:
            raise LineClosedError("the other side does not read what it is told", where=self.peer)
        self._unsent += _LENGTH.pack(len(body)) + body
        self.flush()

    def flush(self) -> None:
        while self._unsent and self.proven:
            try:
                sent = self._socket.send(self._unsent[:_PIECE])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ValueError) as error:
                raise LineClosedError(f"the connection broke off: {error}", where=self.peer) from None
            del self._unsent[:sent]

    def receive(self) -> list[Any]:
        """What has come. Raises LineClosedError where nothing will any more, AuthError for who is refused."""
        data, ended = bytearray(), False
        while not ended and len(data) < MAX_MESSAGE:
            try:
                piece = self._socket.recv(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except ssl.SSLError as error:
                raise AuthError(
                    f"the site's keeper does not accept this certificate ({error.reason})", where=self.peer
                ) from None
            except (OSError, ValueError):
                piece = b""
            data += piece
            ended = not piece
        if not data and ended:
            raise LineClosedError("the connection was closed", where=self.peer)
        self._pending += data
        return list(self._complete())

    def _complete(self) -> Iterator[Any]:
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MAX_MESSAGE:
                raise LineClosedError(f"a message of {length} bytes is not ours", where=self.peer)
            if len(self._pending) < _LENGTH.size + length:
                return
            body = bytes(self._pending[_LENGTH.size : _LENGTH.size + length])
            del self._pending[: _LENGTH.size + length]
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise LineClosedError(f"a message is not understood: {error}", where=self.peer) from None

    def close(self) -> None:
        self._socket.close()
