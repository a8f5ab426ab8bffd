"""Batches for one rank, prefetched by threads. Which rank gets which rows is arithmetic."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

PREFETCH_PER_WORKER = 2


class Samples(Protocol):
    """What the loader needs of a Dataset."""

    def batch(self, indices: I64) -> tuple[I32, I32]: ...


class LoadedBatch(NamedTuple):
    indices: I64
    """Global sample indices of this rank's rows, int64[n]; empty where a last batch has no row for it."""
    tokens: I32
    """int32[n, T+1]."""
    doc_ids: I32
    """int32[n, T+1]."""


class Loader:
    """Iterates over this rank's share of the global index ranges [start, end), in their order.

    The ranges, joined, are cut into batches of `batch_size` samples over all `world` ranks; the last may be
    short. `workers` threads read ahead (NumPy frees the GIL while it copies); 0 reads in the caller's thread.
    A worker's error is raised where its batch is asked for.
    """

    def __init__(
        self,
        dataset: Samples,
        ranges: Iterable[tuple[int, int]],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
    ):
        if not 0 <= rank < world or batch_size < 1 or workers < 0:
            raise ValueError(f"rank {rank} of {world}, batch_size {batch_size}, workers {workers}")
        self._dataset = dataset
        self._ranges = ranges
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._workers = workers

    def __iter__(self) -> Iterator[LoadedBatch]:
        shares = (rank_rows(batch, self._rank, self._world) for batch in cut(self._ranges, self._batch_size))
        if self._workers == 0:
            yield from map(self._load, shares)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader")
        pending: deque[Future[LoadedBatch]] = deque()
        try:
            for share in shares:
                pending.append(pool.submit(self._load, share))
                if len(pending) > self._workers * PREFETCH_PER_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, indices: I64) -> LoadedBatch:
        return LoadedBatch(indices, *self._dataset.batch(indices))


def cut(ranges: Iterable[tuple[int, int]], batch_size: int) -> Iterator[I64]:
    """Joins half-open ranges and cuts them into int64[batch_size] of indices; the last may be shorter."""
    held = np.zeros(0, np.int64)
    for start, end in ranges:
        position = start
        while position < end:
            taken = min(end - position, batch_size - len(held))
            held = np.concatenate([held, np.arange(position, position + taken, dtype=np.int64)])
            position += taken
            if len(held) == batch_size:
                yield held
                held = np.zeros(0, np.int64)
    if len(held):
        yield held


def rank_rows(batch: I64, rank: int, world: int) -> I64:
    """The consecutive rows of a site's batch that one rank takes; sizes differ by one at most."""
    return batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]
