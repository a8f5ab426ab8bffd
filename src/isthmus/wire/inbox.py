"""The receiving half of `transfer`: which chunks of which transfers are here. Without input or output."""

import enum
from dataclasses import dataclass, field

from isthmus.wire import transfer
from isthmus.wire.frames import MAX_CHUNK, FrameError
from isthmus.wire.transfer import MIN_CHUNK, Offer

MAX_FINISHED = 1 << 16


class Verdict(enum.Enum):
    NEW = "new"
    RESUMED = "resumed"
    FINISHED = "finished"


class Arrival(enum.Enum):
    IGNORED = "ignored"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    COMPLETE = "complete"


@dataclass
class _Receiving:
    key: str
    size: int
    chunk: int
    have: bytearray
    arriving: set[int] = field(default_factory=set)
    num_have: int = 0

    def length(self, index: int) -> int:
        return min(self.chunk, self.size - index * self.chunk)


class Inbox:
    """Transfers on their way in from one sender process."""

    def __init__(self) -> None:
        self._transfers: dict[int, _Receiving] = {}
        self._finished: dict[int, int] = {}
        """Number -> chunks, kept while the sender may still ask."""

    def __len__(self) -> int:
        return len(self._transfers)

    def offered(self, offer: Offer) -> Verdict:
        """NEW: the caller finds room, then calls `begin` (or does not). Raises FrameError on nonsense."""
        if not MIN_CHUNK <= offer.chunk <= MAX_CHUNK:
            raise FrameError(f"offer of '{offer.key}' in chunks of {offer.chunk} bytes")
        for number in [number for number in self._finished if number < offer.floor]:
            del self._finished[number]
        if offer.transfer in self._finished:
            return Verdict.FINISHED
        known = self._transfers.get(offer.transfer)
        if known is None:
            if len(self._transfers) >= transfer.MAX_TRANSFERS:
                raise FrameError(f"more than {transfer.MAX_TRANSFERS} transfers offered at once")
            return Verdict.NEW
        if (known.key, known.size, known.chunk) != (offer.key, offer.size, offer.chunk):
            raise FrameError(f"transfer {offer.transfer} was '{known.key}' and is offered as '{offer.key}'")
        return Verdict.RESUMED

    def begin(self, offer: Offer) -> bool:
        """Room is there. True if the transfer is complete at once, being empty."""
        num_chunks = -(-offer.size // offer.chunk)
        self._transfers[offer.transfer] = _Receiving(
            offer.key, offer.size, offer.chunk, bytearray(num_chunks)
        )
        if num_chunks == 0:
            self._finish(offer.transfer)
        return num_chunks == 0

    def have(self, number: int) -> bytes:
        """One byte per chunk, 1 where it is here and checked."""
        if number in self._finished:
            return b"\x01" * self._finished[number]
        return bytes(self._transfers[number].have)

    def arriving(self, number: int, offset: int, length: int) -> int | None:
        """Index of the chunk to be read into place, None if it must be read and thrown away (known already,
        under way on another stream, or cancelled). Raises FrameError if it does not fit the transfer."""
        receiving = self._transfers.get(number)
        if receiving is None:
            return None
        index, rest = divmod(offset, receiving.chunk)
        if rest or index >= len(receiving.have) or length != receiving.length(index):
            raise FrameError(f"chunk of {length} bytes at {offset} is no part of '{receiving.key}'")
        if receiving.have[index] or index in receiving.arriving:
            return None
        receiving.arriving.add(index)
        return index

    def holds(self, number: int, offset: int) -> int | None:
        """Index of the chunk at `offset` if it is here already, so that it can be confirmed once more."""
        receiving = self._transfers.get(number)
        if receiving is None or not receiving.have[offset // receiving.chunk]:
            return None
        return offset // receiving.chunk

    def arrived(self, number: int, index: int, intact: bool) -> Arrival:
        """The chunk that `arriving` announced was read to its end."""
        receiving = self._transfers.get(number)
        if receiving is None or index not in receiving.arriving:
            return Arrival.IGNORED
        receiving.arriving.discard(index)
        if not intact:
            return Arrival.REJECTED
        receiving.have[index] = 1
        receiving.num_have += 1
        if receiving.num_have < len(receiving.have):
            return Arrival.CONFIRMED
        self._finish(number)
        return Arrival.COMPLETE

    def cancel(self, number: int) -> str | None:
        receiving = self._transfers.pop(number, None)
        return receiving.key if receiving else None

    def link_down(self) -> None:
        for receiving in self._transfers.values():
            receiving.arriving.clear()

    def _finish(self, number: int) -> None:
        receiving = self._transfers.pop(number)
        self._finished[number] = len(receiving.have)
        while len(self._finished) > MAX_FINISHED:
            del self._finished[next(iter(self._finished))]
