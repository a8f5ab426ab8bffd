"""What rank 0 decides at a step boundary reaches the other ranks as a handful of integers."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from isthmus.comm.collective import Collective
from isthmus.train.feed import Done, Idle, Offer, Range, Work

_WORK, _IDLE, _DONE = range(3)
_HEADER = 6


@dataclass(frozen=True)
class Order:
    """An offer of the feed, with what the loop itself has found due."""

    offer: Offer
    evaluate: bool


def share_order(group: Collective, decide: Callable[[], Order] | None) -> Order:
    """`decide`, called where it is given (on rank 0), gives all ranks their order.

    One message, and a second where the work lies in several ranges. The reason of a `Done` stays on rank 0;
    the others see ''.
    """
    order = decide() if decide else None
    if group.world_size == 1:
        assert order is not None, "a rank on its own decides"
        group.barrier()  # where it hears that its group is over, and others are to join it
        return order
    header = group.share(_header(order) if order else [0] * _HEADER)
    num_ranges, numbers = header[3], header[4:]
    if num_ranges > 1:
        numbers = group.share(_numbers(order) if order else [0] * (2 * num_ranges))
    return order or _order(header, list(zip(numbers[::2], numbers[1::2], strict=True)))


def _numbers(order: Order) -> list[int]:
    task = order.offer.task
    return [number for span in task.ranges for number in span] if isinstance(task, Work) else []


def _header(order: Order) -> list[int]:
    task = order.offer.task
    kind = _WORK if isinstance(task, Work) else _IDLE if isinstance(task, Idle) else _DONE
    flags = order.offer.new_parameters | order.offer.reset_moments << 1 | order.evaluate << 2
    progress = task.progress if isinstance(task, Work) else 0.0
    (bits,) = struct.unpack("<q", struct.pack("<d", progress))
    numbers = _numbers(order)
    first = numbers[:2] or [0, 0]
    return [kind, flags, bits, len(numbers) // 2, *first]


def _order(header: list[int], ranges: list[Range]) -> Order:
    kind, flags, bits, *_ = header
    (progress,) = struct.unpack("<d", struct.pack("<q", bits))
    task = Work(ranges, progress) if kind == _WORK else Idle() if kind == _IDLE else Done("")
    offer = Offer(task, new_parameters=bool(flags & 1), reset_moments=bool(flags & 2))
    return Order(offer, evaluate=bool(flags & 4))
