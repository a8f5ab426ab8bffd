"""Chunked transfers that survive their connections, as state without any input or output.

The sender cuts a payload into chunks and keeps for each whether the receiver confirmed it. A chunk in flight
on a connection that breaks goes back to the pile; on the next connection the receiver first tells what it
has, and only the rest is sent. Chunks may arrive in any order, over any stream, and more than once.

`Outbox` is the sending half, `inbox.Inbox` the receiving half. Neither locks: the caller does.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from isthmus.errors import InputError
from isthmus.wire.frames import MAX_CHUNK

MIN_CHUNK = 1 << 20
MAX_WINDOW = 64 << 20
MAX_TRANSFERS = 4096


def choose_chunk(rate_bps: float, rtt_s: float) -> int:
    """Bytes per chunk, a power of two from 1 to 4 MiB: what the link carries in one round trip, or in 10 ms
    if that is longer, since each chunk has a fixed cost (2 MiB instead of 1 saves a sixth of the CPU on
    loopback)."""
    carried = max(1.0, rate_bps / 8 * max(rtt_s, 0.01))
    return min(MAX_CHUNK, max(MIN_CHUNK, 1 << math.ceil(math.log2(carried))))


def choose_window(rate_bps: float, rtt_s: float, streams: int) -> int:
    """Bytes a stream may have unconfirmed; one chunk always may be.

    Four times the stream's share of what the link holds, or what it carries in 10 ms if that is more, since
    threads take turns more slowly than a short link does. Where a chunk takes longer than that it is one
    chunk, so a cut costs one per stream; on long fat links, and for small payloads, it grows with the rate
    that the last window reached.
    """
    return min(MAX_WINDOW, round(rate_bps / 8 * max(4 * rtt_s, 0.01) / streams))


@dataclass(frozen=True, slots=True)
class Chunk:
    transfer: int
    index: int
    offset: int
    length: int
    again: bool
    """It was sent before, on a connection that broke or with a wrong checksum."""


class Offer(NamedTuple):
    """What the sender says of a transfer before its chunks. All transfers below number `floor` are
    settled."""

    transfer: int
    key: str
    size: int
    chunk: int
    floor: int


@dataclass
class _Sending:
    key: str
    size: int
    chunk: int
    todo: deque[int]
    accepted: bool = False
    in_flight: dict[int, int] = field(default_factory=dict)
    """Chunk -> stream."""
    confirmed: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)

    @property
    def num_chunks(self) -> int:
        return -(-self.size // self.chunk)

    def length(self, index: int) -> int:
        return min(self.chunk, self.size - index * self.chunk)


class Outbox:
    """Transfers on their way out, first offered first served."""

    def __init__(self) -> None:
        self._transfers: dict[int, _Sending] = {}
        self._next = 1
        self._load: dict[int, int] = {}
        self.resent_chunks = 0

    def __len__(self) -> int:
        return len(self._transfers)

    def put(self, key: str, size: int, chunk: int) -> Offer:
        """Takes up a payload of `size` bytes. Raises InputError when too many are under way."""
        if len(self._transfers) >= MAX_TRANSFERS:
            raise InputError(
                f"{MAX_TRANSFERS} transfers are under way already",
                where=key,
                hint="wait for `on_sent` before putting more",
            )
        number, self._next = self._next, self._next + 1
        sending = _Sending(key, size, chunk, deque())
        sending.todo.extend(range(sending.num_chunks))
        self._transfers[number] = sending
        return self._offer(number)

    def _offer(self, number: int) -> Offer:
        sending = self._transfers[number]
        return Offer(number, sending.key, sending.size, sending.chunk, min(self._transfers))

    def offers(self) -> list[Offer]:
        """Everything unfinished, to be said again on a new connection."""
        return [self._offer(number) for number in self._transfers]

    def find(self, key: str) -> int | None:
        return next((number for number, sending in self._transfers.items() if sending.key == key), None)

    def length(self, number: int, index: int) -> int:
        """Bytes of a chunk that is in flight, 0 for any other."""
        sending = self._transfers.get(number)
        if sending is None or index not in sending.in_flight:
            return 0
        return sending.length(index)

    def accepted(self, number: int, have: bytes) -> str | None:
        """The receiver holds the chunks whose byte in `have` is 1. Returns the key if that completes it."""
        sending = self._transfers.get(number)
        if sending is None or len(have) != sending.num_chunks:
            return None
        sending.accepted = True
        sending.confirmed.update(index for index, flag in enumerate(have) if flag)
        sending.todo = deque(
            i for i in range(sending.num_chunks) if i not in sending.confirmed and i not in sending.in_flight
        )
        return self._finish_if_complete(number, sending)

    def next_chunk(self, stream: int, window: int) -> Chunk | None:
        """The chunk that `stream` should send now; None when its window of bytes is full or nothing is
        left."""
        load = self._load.get(stream, 0)
        for number, sending in self._transfers.items():
            if not sending.accepted or not sending.todo:
                continue
            length = sending.length(sending.todo[0])
            if load and load + length > window:
                return None
            index = sending.todo.popleft()
            again = index in sending.sent
            self.resent_chunks += again
            sending.sent.add(index)
            sending.in_flight[index] = stream
            self._load[stream] = load + length
            return Chunk(number, index, index * sending.chunk, length, again)
        return None

    def confirmed(self, number: int, index: int) -> str | None:
        """The receiver has the chunk, checked. Returns the key if the transfer is complete with it."""
        sending = self._transfers.get(number)
        if sending is None or not 0 <= index < sending.num_chunks:
            return None
        self._land(sending, index)
        sending.confirmed.add(index)
        return self._finish_if_complete(number, sending)

    def rejected(self, number: int, index: int) -> None:
        """The chunk arrived damaged: it goes first in line again."""
        sending = self._transfers.get(number)
        if sending is None or index not in sending.in_flight:
            return
        self._land(sending, index)
        sending.todo.appendleft(index)

    def cancel(self, number: int) -> bool:
        sending = self._transfers.pop(number, None)
        if sending is None:
            return False
        for index in list(sending.in_flight):
            self._land(sending, index)
        return True

    def link_down(self) -> None:
        """All connections are gone: what was in flight goes back, and each transfer must be accepted anew."""
        self._load.clear()
        for sending in self._transfers.values():
            sending.todo = deque(sorted([*sending.in_flight, *sending.todo]))
            sending.in_flight.clear()
            sending.confirmed.clear()
            sending.accepted = False

    def _land(self, sending: _Sending, index: int) -> None:
        stream = sending.in_flight.pop(index, None)
        if stream is not None:
            self._load[stream] = max(0, self._load.get(stream, 0) - sending.length(index))

    def _finish_if_complete(self, number: int, sending: _Sending) -> str | None:
        if len(sending.confirmed) < sending.num_chunks:
            return None
        for index in list(sending.in_flight):
            self._land(sending, index)
        del self._transfers[number]
        return sending.key
