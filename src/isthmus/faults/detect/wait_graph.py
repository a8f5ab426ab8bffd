"""Who waits for whom, from the pages of a group whose ranks do the same collectives in the same order.

A rank that blocks in collective n waits for every rank that has not come to n. The earliest collective in
which anyone blocks is the one that holds up all; ranks that have not issued it are why. (By construction
none of them blocks.) If all have issued it, it is not one collective but two that do not match, or the
transport failed, or a rank died or was stopped inside.
"""

from collections import Counter

import msgspec

from isthmus.faults.page import PageView


class Mismatch(msgspec.Struct, frozen=True):
    """Ranks did different things at the same place."""

    sequence: int
    odd: tuple[int, ...]
    """The ranks that differ from most; all of them where there is no majority."""
    majority: bool


class WaitGraph(msgspec.Struct, frozen=True):
    suspects: tuple[int, ...]
    """Ranks that do not wait and that are the furthest behind of those."""
    victims: tuple[int, ...]
    """Ranks that wait."""
    sequence: int
    """The earliest collective that anyone waits in; 0: nobody waits."""
    mismatch: Mismatch | None


def wait_graph(views: dict[int, PageView]) -> WaitGraph:
    """Of the ranks that are there and have not left."""
    waiting = {rank: view.waiting for rank, view in views.items() if view.waiting}
    free = [rank for rank in views if rank not in waiting]
    place = lambda rank: (views[rank].generation, views[rank].issued)  # noqa: E731
    behind = min((place(rank) for rank in free), default=None)
    return WaitGraph(
        suspects=tuple(sorted(rank for rank in free if place(rank) == behind)),
        victims=tuple(sorted(waiting)),
        sequence=min(waiting.values(), default=0),
        mismatch=find_mismatch(views),
    )


def find_mismatch(views: dict[int, PageView]) -> Mismatch | None:
    """The first collective, of those that pages still hold, at which ranks of one generation differ."""
    newest = max((view.generation for view in views.values()), default=0)
    peers = {rank: view for rank, view in views.items() if view.generation == newest}
    shared = Counter(sequence for view in peers.values() for sequence in view.collectives)
    for sequence in sorted(sequence for sequence, count in shared.items() if count > 1):
        done = {rank: v.collectives[sequence] for rank, v in peers.items() if sequence in v.collectives}
        counts = Counter(done.values()).most_common()
        if len(counts) > 1:
            majority = counts[0][1] > counts[1][1]
            odd = [rank for rank, value in done.items() if not majority or value != counts[0][0]]
            return Mismatch(sequence, tuple(sorted(odd)), majority)
    return None
