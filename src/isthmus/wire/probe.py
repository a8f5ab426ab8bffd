"""Measuring a link over a connection of its own: round trips, bandwidth both ways, packets, hashes.

The site asks, the server answers; under TLS the two never talk at the same time. Every request is bounded.
"""

import threading
import time
from collections.abc import Mapping
from typing import TypeVar

import msgspec
import xxhash

from isthmus import __version__
from isthmus.spec.dump import plain
from isthmus.spec.run import RunSpec
from isthmus.wire.channel import Channel, tcp_counters
from isthmus.wire.frames import FrameError, Kind
from isthmus.wire.handshake import Timing
from isthmus.wire.hello import WIRE_VERSION

PIECE_BYTES = 256 << 10
MAX_BURST_S = 30.0
_IDLE_S = 30.0
_Said = TypeVar("_Said")


class Request(msgspec.Struct, frozen=True):
    """`what`: 'echo' answers at once; 'sink' counts pieces until an empty one; 'source' sends for
    `duration_s`; 'facts' tells the hashes; 'bye' ends the probe."""

    what: str
    duration_s: float = 0.0


class Tally(msgspec.Struct, frozen=True):
    """The server's account of a burst. `retransmitted` of `segments_out` are the server's own packets."""

    num_bytes: int = 0
    duration_s: float = 0.0
    segments_out: int = 0
    retransmitted: int = 0
    wall_s: float = 0.0


def run_facts(run: RunSpec) -> dict[str, str]:
    """What two sides of one run must agree on: name -> version or hash."""
    return {
        "code": __version__,
        "wire": str(WIRE_VERSION),
        "model": _hash(run.model),
        "data": _hash(msgspec.structs.replace(run.data, cache="")),
    }


def _hash(part: msgspec.Struct) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(plain(part), order="deterministic"))


def answer(channel: Channel, facts: Mapping[str, str], timing: Timing, stop: threading.Event) -> None:
    """The server's side of one probe connection, until 'bye', silence or `stop`. Raises OSError,
    FrameError."""
    channel.sock.settimeout(_IDLE_S)
    piece = memoryview(bytes(PIECE_BYTES))
    while not stop.is_set():
        request = hear(channel, Request)
        if request.what == "bye":
            return
        if request.what == "facts":
            say(channel, dict(facts))
        elif request.what == "sink":
            say(channel, sink(channel, timing))
        elif request.what == "source":
            source(channel, piece, min(request.duration_s, MAX_BURST_S))
            say(channel, _tally(channel, 0, 0.0, timing))
        elif request.what == "echo":
            say(channel, _tally(channel, 0, 0.0, timing))
        else:
            raise FrameError(f"unknown probe '{request.what}'")


def _tally(channel: Channel, num_bytes: int, duration_s: float, timing: Timing) -> Tally:
    counters = tcp_counters(channel.sock)
    return Tally(
        num_bytes,
        duration_s,
        counters.get("segments_out", 0),
        counters.get("retransmitted", 0),
        timing.clock.wall_s(),
    )


def source(channel: Channel, piece: memoryview, duration_s: float) -> None:
    """Sends pieces for `duration_s`, then an empty one."""
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        channel.send(Kind.PROBE, piece)
    channel.send(Kind.PROBE)


def sink(channel: Channel, timing: Timing) -> Tally:
    """Reads pieces up to the empty one. The clock starts after the first, so the way there does not count."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    start_s, total = 0.0, 0
    while True:
        header = channel.read_header()
        if header.kind is not Kind.PROBE or header.length > PIECE_BYTES:
            raise FrameError(f"{header.kind.name} of {header.length} bytes in a burst")
        if header.length == 0:
            duration_s = time.monotonic() - start_s if start_s else 0.0
            return _tally(channel, total, duration_s, timing)
        channel.read_into(buffer[: header.length])
        if start_s:
            total += header.length
        start_s = start_s or time.monotonic()


def say(channel: Channel, content: object) -> None:
    channel.send(Kind.PROBE, msgspec.msgpack.encode(content))


def hear(channel: Channel, kind: type[_Said]) -> _Said:
    """The other side's next words. Raises OSError or FrameError."""
    header, payload = channel.read_frame()
    if header.kind is not Kind.PROBE:
        raise FrameError(f"{header.kind.name} in a probe")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise FrameError(f"unreadable probe: {error}") from None
