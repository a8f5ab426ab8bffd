"""The first words on a connection: a preamble in the clear, then inside TLS who calls and for what.

The preamble tells version and wall clock of each side before any certificate is looked at, so that a wrong
version or a wrong clock is named as such. Nobody is believed on its strength: it only words errors.
"""

import struct
from typing import Literal, NamedTuple, TypeVar

import msgspec

from isthmus.errors import AuthError, UnreachableError
from isthmus.wire.frames import FrameError

WIRE_VERSION = 1
_PREAMBLE = struct.Struct("<8sHd")
_MAGIC = b"ISTHMUS\0"
PREAMBLE_BYTES = _PREAMBLE.size
Role = Literal["control", "up", "down", "probe"]


class Preamble(NamedTuple):
    version: int
    wall_s: float


def encode_preamble(wall_s: float) -> bytes:
    return _PREAMBLE.pack(_MAGIC, WIRE_VERSION, wall_s)


def decode_preamble(data: bytes) -> Preamble:
    """Raises FrameError if these are not the first bytes of one of ours."""
    if len(data) != PREAMBLE_BYTES or not data.startswith(_MAGIC):
        raise FrameError("the other side does not speak isthmus")
    _, version, wall_s = _PREAMBLE.unpack(data)
    return Preamble(version, wall_s)


def check_version(theirs: int, where: str) -> None:
    """Raises AuthError when the two sides speak different versions of this protocol."""
    if theirs != WIRE_VERSION:
        raise AuthError(
            f"the server speaks wire version {theirs}, this side {WIRE_VERSION}",
            where=where,
            hint="install the same version of isthmus on both sides",
        )


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What the dialling side says on each of its connections."""

    site: str
    token: str
    session: str
    """Random name of the dialling process: transfers resume only within one."""
    role: Role
    """'up': this connection carries chunks to the server; 'down': from it."""
    link: str = ""
    """What the server called this link in its welcome on the control connection."""
    stream: int = 0
    streams: int = 1
    congestion: str = ""
    """TCP congestion control that the server's side of this link should use too."""
    body: bytes = b""
    """For the application."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    session: str
    link: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["auth", "busy"]
    """'busy': worth another try later."""
    message: str
    hint: str = ""

    def error(self, where: str) -> UnreachableError:
        kind = AuthError if self.kind == "auth" else UnreachableError
        return kind(self.message, where=where, hint=self.hint or None)


def read_hello(payload: bytes) -> Hello:
    return _decode(payload, Hello)


def read_welcome(payload: bytes) -> Welcome:
    return _decode(payload, Welcome)


def read_refusal(payload: bytes) -> Refusal:
    return _decode(payload, Refusal)


_Words = TypeVar("_Words", Hello, Welcome, Refusal)


def _decode(payload: bytes, kind: type[_Words]) -> _Words:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise FrameError(f"unreadable {kind.__name__.lower()}: {error}") from None
