"""The frame: 40 bytes of header, then a payload. Pure encoding and decoding, nothing here touches a socket.

    magic 4 | kind 1 | stream 1 | reserved 2 | key 8 | offset 8 | length 4 | payload xxh3 8 | header xxh32 4

The header has a checksum of its own, so a damaged length is noticed before it is believed; a damaged payload
behind a sound header can be asked for again without losing the connection.
"""

import enum
import struct
from typing import NamedTuple

import xxhash

from isthmus.errors import CorruptError

MAGIC = b"ISTH"
MAX_CHUNK = 4 << 20
MAX_MESSAGE = 16 << 20
_BODY = struct.Struct("<4sBBHQQIQ")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _BODY.size + _CHECK.size

Buffer = bytes | bytearray | memoryview


class FrameError(CorruptError):
    """Bytes that are no frame of ours. The connection they came from is closed, the transfers live on."""


class Kind(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    READY = 4
    MESSAGE = 5
    PING = 6
    PONG = 7
    OFFER = 8
    ACCEPT = 9
    DECLINE = 10
    CHUNK = 11
    CONFIRM = 12
    REJECT = 13
    CANCEL = 14
    PROBE = 15


_MAX_LENGTH = {
    Kind.HELLO: 1 << 20,
    Kind.WELCOME: 1 << 16,
    Kind.REFUSED: 1 << 16,
    Kind.READY: 0,
    Kind.MESSAGE: MAX_MESSAGE,
    Kind.PING: 64,
    Kind.PONG: 64,
    Kind.OFFER: 1 << 12,
    Kind.ACCEPT: MAX_MESSAGE,
    Kind.DECLINE: 0,
    Kind.CHUNK: MAX_CHUNK,
    Kind.CONFIRM: 0,
    Kind.REJECT: 0,
    Kind.CANCEL: 0,
    Kind.PROBE: MAX_CHUNK,
}


class Header(NamedTuple):
    kind: Kind
    stream: int
    key: int
    """Number of the transfer a frame belongs to; 0 elsewhere."""
    offset: int
    length: int
    """Bytes of payload that follow."""
    check: int


def encode(kind: Kind, payload: Buffer = b"", *, stream: int = 0, key: int = 0, offset: int = 0) -> bytes:
    """The 40 bytes that go before `payload`. Raises FrameError where the payload is too long for its kind."""
    length = len(payload)
    if length > _MAX_LENGTH[kind]:
        raise FrameError(f"{kind.name} of {length} bytes, at most {_MAX_LENGTH[kind]} are allowed")
    check = xxhash.xxh3_64_intdigest(payload)
    body = _BODY.pack(MAGIC, kind, stream, 0, key, offset, length, check)
    return body + _CHECK.pack(xxhash.xxh32_intdigest(body))


def decode(data: Buffer) -> Header:
    """Reads the first 40 bytes of `data`. Raises FrameError on anything `encode` would not have written."""
    if len(data) < HEADER_BYTES:
        raise FrameError(f"header of {len(data)} bytes, {HEADER_BYTES} are needed")
    magic, kind, stream, _, key, offset, length, check = _BODY.unpack_from(data)
    if magic != MAGIC:
        raise FrameError(f"frame starts with {bytes(magic)!r}, not {MAGIC!r}")
    if _CHECK.unpack_from(data, _BODY.size)[0] != xxhash.xxh32_intdigest(bytes(data[: _BODY.size])):
        raise FrameError("header does not match its checksum")
    try:
        kind = Kind(kind)
    except ValueError:
        raise FrameError(f"unknown kind of frame {kind}") from None
    if length > _MAX_LENGTH[kind]:
        raise FrameError(f"{kind.name} of {length} bytes, at most {_MAX_LENGTH[kind]} are allowed")
    return Header(kind, stream, key, offset, length, check)


def intact(header: Header, payload: Buffer) -> bool:
    """Whether the payload is the one its header was written for."""
    return len(payload) == header.length and xxhash.xxh3_64_intdigest(payload) == header.check


def frame(kind: Kind, payload: Buffer = b"", *, key: int = 0, offset: int = 0) -> bytes:
    """Header and payload in one piece, for small frames."""
    return encode(kind, payload, key=key, offset=offset) + bytes(payload)


class Parser:
    """Cuts a byte stream into frames. Holds at most one frame of the largest kind and the last feed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: Buffer) -> list[tuple[Header, bytes]]:
        """Frames completed by `data`, in order. Raises FrameError, after which the stream is lost."""
        self._data += data
        frames: list[tuple[Header, bytes]] = []
        start = 0
        while len(self._data) - start >= HEADER_BYTES:
            header = decode(self._data[start : start + HEADER_BYTES])
            end = start + HEADER_BYTES + header.length
            if len(self._data) < end:
                break
            payload = bytes(self._data[start + HEADER_BYTES : end])
            if not intact(header, payload):
                raise FrameError(f"{header.kind.name} does not match its checksum")
            frames.append((header, payload))
            start = end
        del self._data[:start]
        return frames
