"""Transfers of one peer in both directions: the pure halves of `transfer`, with payloads, buffers and a lock.

Outlives connections. The control thread feeds it frames, stream threads take chunks to send and places to
read chunks into. Callbacks of the application run without the lock.
"""

import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isthmus.errors import InputError
from isthmus.wire import frames, transfer
from isthmus.wire.frames import FrameError, Header, Kind
from isthmus.wire.handler import Handle, PeerHandler
from isthmus.wire.inbox import Arrival, Inbox, Verdict
from isthmus.wire.meter import RateMeter, RttMeter
from isthmus.wire.transfer import Chunk, Offer, Outbox

if TYPE_CHECKING:
    from isthmus.wire.peer import Peer

_OFFER = struct.Struct("<QI")
MAX_KEY_BYTES = 1024
MAX_DAMAGED = 64
"""Damaged chunks after which a link is dropped rather than asked again."""


@dataclass(frozen=True, slots=True)
class Landing:
    """Where the chunk that a stream is about to read belongs."""

    transfer: int
    index: int
    view: memoryview


@dataclass
class _Room:
    key: str
    buffer: Any
    view: memoryview
    readers: int = 0


class Exchange:
    def __init__(self, peer: "Peer", handler: PeerHandler):
        self.peer = peer
        self.handler = handler
        self.rtt = RttMeter()
        self.out_rate = RateMeter()
        self.in_rate = RateMeter()
        self._streams = 1
        self._live = False
        self._changed = threading.Condition()
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._payloads: dict[int, tuple[memoryview, Handle]] = {}
        self._rooms: dict[int, _Room] = {}
        self._leaving: dict[int, _Room] = {}
        """Cancelled while a stream was still reading into them; offers wait until that is over."""
        self._held: deque[Offer] = deque()
        self._damaged = 0

    @property
    def resent_chunks(self) -> int:
        return self._outbox.resent_chunks

    def take_fresh(self) -> tuple[float | None, float | None, tuple[float, float] | None]:
        """What was measured since the last call: rates out and in, and the shortest round trip."""
        with self._changed:
            return self.out_rate.take_fresh(), self.in_rate.take_fresh(), self.rtt.take_fresh()

    def pong(self, rtt_s: float, clock_offset_s: float) -> None:
        """A round trip, and how far ahead of ours it shows the other clock. Beside a transfer it tells of the
        queues that this fills.
        """
        with self._changed:
            is_alone = not (self.out_rate.is_active or self.in_rate.is_active)
            self.rtt.add(rtt_s, clock_offset_s if is_alone else None)

    def put(self, key: str, payload: Any) -> tuple[Handle, list[bytes]]:
        """Takes up a payload; what was under way with the same key is cancelled. Returns frames to send."""
        if len(key.encode()) > MAX_KEY_BYTES:
            raise InputError(f"key of {len(key.encode())} bytes, at most {MAX_KEY_BYTES}", where=key[:40])
        view = memoryview(payload).cast("B")
        said = self.cancel(key)
        with self._changed:
            chunk = transfer.choose_chunk(self.out_rate.bps, self.rtt.least_s)
            offer = self._outbox.put(key, len(view), chunk)
            handle = Handle(key)
            self._payloads[offer.transfer] = (view, handle)
        return handle, [*said, _encode_offer(offer)]

    def cancel(self, key: str) -> list[bytes]:
        with self._changed:
            number = self._outbox.find(key)
            if number is None:
                return []
            self._outbox.cancel(number)
            _, handle = self._payloads.pop(number)
            self._changed.notify_all()
        handle.settle(sent=False)
        return [frames.frame(Kind.CANCEL, key=number)]

    def link_up(self, streams: int) -> list[bytes]:
        """A new link with all its streams is there: every unfinished transfer is offered again."""
        with self._changed:
            self._streams, self._live, self._damaged = streams, True, 0
            return [_encode_offer(offer) for offer in self._outbox.offers()]

    def link_down(self) -> None:
        """Wakes the streams, which then end. Called again once they did: only then is the state settled."""
        with self._changed:
            self._live = False
            self._outbox.link_down()
            self._inbox.link_down()
            self.out_rate.reset()
            self.in_rate.reset()
            self._held.clear()
            self._leaving.clear()
            for room in self._rooms.values():
                room.readers = 0
            self._changed.notify_all()

    def forget_sender(self) -> None:
        """Another process sends from now on, and counts its transfers from the start. Between two links."""
        with self._changed:
            self._rooms.clear()
            self._inbox = Inbox()

    def settle_all(self) -> None:
        """The peer will not come back: nothing more is sent."""
        with self._changed:
            handles = [handle for _, handle in self._payloads.values()]
            self._payloads.clear()
            self._outbox = Outbox()
            self._rooms.clear()
            self._inbox = Inbox()
        for handle in handles:
            handle.settle(sent=False)

    # --- streams ---

    def take(self, stream: int) -> tuple[Chunk, memoryview] | None:
        """Waits for a chunk that `stream` should send; None when the link is down."""
        with self._changed:
            while self._live:
                window = transfer.choose_window(self.out_rate.bps, self.rtt.least_s, self._streams)
                chunk = self._outbox.next_chunk(stream, window)
                if chunk is not None:
                    self.out_rate.begin(time.monotonic(), self.rtt.least_s)
                    view, _ = self._payloads[chunk.transfer]
                    return chunk, view[chunk.offset : chunk.offset + chunk.length]
                self._changed.wait(1.0)
        return None

    def place(self, header: Header) -> Landing | None:
        """Where to read a chunk into; None: read it and throw it away. Raises FrameError."""
        with self._changed:
            self.in_rate.begin(time.monotonic())
            index = self._inbox.arriving(header.key, header.offset, header.length)
            if index is None:
                return None
            room = self._rooms[header.key]
            room.readers += 1
            return Landing(header.key, index, room.view[header.offset : header.offset + header.length])

    def landed(self, header: Header, landing: Landing | None, intact: bool) -> list[bytes]:
        """The chunk was read. Raises FrameError when too many came damaged."""
        with self._changed:
            self.in_rate.end(time.monotonic(), header.length)
            if landing is None:
                held = self._inbox.holds(header.key, header.offset)
                return [] if held is None else [frames.frame(Kind.CONFIRM, key=header.key, offset=held)]
            number, index = landing.transfer, landing.index
            outcome = self._inbox.arrived(number, index, intact)
            room = self._rooms.get(number) or self._leaving.get(number)
            if room is not None:
                room.readers -= 1
                if room.readers == 0:
                    self._leaving.pop(number, None)
            if outcome is Arrival.REJECTED:
                self._damaged += 1
                if self._damaged > MAX_DAMAGED:
                    raise FrameError(f"{self._damaged} damaged chunks on one link")
                return [frames.frame(Kind.REJECT, key=number, offset=index)]
            if outcome is Arrival.IGNORED:
                return []
            done = self._rooms.pop(number) if outcome is Arrival.COMPLETE else None
        if done is not None:
            self.handler.on_blob(self.peer, done.key, done.buffer)
        return [frames.frame(Kind.CONFIRM, key=number, offset=index)]

    # --- control ---

    def handle(self, header: Header, payload: bytes) -> list[bytes]:
        """One frame about transfers, from the control thread. Returns frames to answer with."""
        number, index = header.key, header.offset
        if header.kind is Kind.OFFER:
            return self._offered(_decode_offer(header, payload))
        if header.kind is Kind.CANCEL:
            self._cancelled(number)
        elif header.kind is Kind.DECLINE:
            self._declined(number)
        elif header.kind in (Kind.CONFIRM, Kind.ACCEPT, Kind.REJECT):
            with self._changed:
                if header.kind is Kind.ACCEPT:
                    key = self._outbox.accepted(number, payload)
                else:
                    key = self._landed_there(header.kind, number, index)
                _, handle = self._payloads.pop(number) if key is not None else (None, None)
                self._changed.notify_all()
            if key is not None and handle is not None:
                handle.settle(sent=True)
                self.handler.on_sent(self.peer, key)
        else:
            raise FrameError(f"{header.kind.name} on a control connection")
        return []

    def _landed_there(self, kind: Kind, number: int, index: int) -> str | None:
        self.out_rate.end(time.monotonic(), self._outbox.length(number, index))
        if kind is Kind.CONFIRM:
            return self._outbox.confirmed(number, index)
        self._outbox.rejected(number, index)
        return None

    def held(self) -> list[bytes]:
        """Answers to the offers that waited for cancelled transfers to leave."""
        answers: list[bytes] = []
        while self._held and not self._leaving:
            answers += self._offered(self._held.popleft())
        return answers

    def _offered(self, offer: Offer) -> list[bytes]:
        with self._changed:
            if self._leaving:
                if len(self._held) >= transfer.MAX_TRANSFERS:
                    raise FrameError("too many offers at once")
                self._held.append(offer)
                return []
            verdict = self._inbox.offered(offer)
        if verdict is Verdict.NEW:
            buffer = self.handler.allocate(self.peer, offer.key, offer.size)
            if buffer is None:
                return [frames.frame(Kind.DECLINE, key=offer.transfer)]
            view = memoryview(buffer).cast("B")
            if view.nbytes != offer.size or view.readonly:
                raise ValueError(f"allocate gave no writable buffer of {offer.size} bytes for '{offer.key}'")
            with self._changed:
                complete = self._inbox.begin(offer)
                if not complete:
                    self._rooms[offer.transfer] = _Room(offer.key, buffer, view)
            if complete:
                self.handler.on_blob(self.peer, offer.key, buffer)
        with self._changed:
            return [frames.frame(Kind.ACCEPT, self._inbox.have(offer.transfer), key=offer.transfer)]

    def _cancelled(self, number: int) -> None:
        with self._changed:
            if self._inbox.cancel(number) is None:
                self._held = deque(offer for offer in self._held if offer.transfer != number)
                return
            room = self._rooms.pop(number)
            if room.readers:
                self._leaving[number] = room

    def _declined(self, number: int) -> None:
        with self._changed:
            self._outbox.cancel(number)
            _, handle = self._payloads.pop(number, (None, None))
            self._changed.notify_all()
        if handle is not None:
            handle.settle(sent=False)


def _encode_offer(offer: Offer) -> bytes:
    payload = _OFFER.pack(offer.floor, offer.chunk) + offer.key.encode()
    return frames.frame(Kind.OFFER, payload, key=offer.transfer, offset=offer.size)


def _decode_offer(header: Header, payload: bytes) -> Offer:
    try:
        floor, chunk = _OFFER.unpack_from(payload)
        return Offer(header.key, payload[_OFFER.size :].decode(), header.offset, chunk, floor)
    except (struct.error, UnicodeDecodeError):
        raise FrameError("unreadable offer") from None
