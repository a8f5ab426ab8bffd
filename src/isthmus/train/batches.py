"""A rank's rows of each step, read one step ahead where the next ranges can be guessed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from isthmus.data.loader import I32, I64, Samples, rank_rows
from isthmus.train.feed import Range

Rows = tuple[I32, I32]


class Batches(AbstractContextManager["Batches"]):
    """Loads what a step's ranges mean for this rank.

    Leases follow each other in the global stream almost always, so the rows after the last ones are read by a
    thread meanwhile. A wrong guess costs that reading, nothing else.
    """

    def __init__(self, dataset: Samples, rank: int, world_size: int):
        self._dataset = dataset
        self._rank, self._world_size = rank, world_size
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[I64, Future[Rows]] | None = None

    def load(self, ranges: Sequence[Range]) -> Rows:
        """(tokens, doc_ids), int32[n, T+1]; n may be 0 where a short step has no row for this rank."""
        indices = self._mine(ranges)
        ahead, self._ahead = self._ahead, None
        guessed = ahead is not None and np.array_equal(ahead[0], indices)
        rows = ahead[1].result() if ahead and guessed else self._dataset.batch(indices)
        end, count = ranges[-1][1], sum(end - start for start, end in ranges)
        following = self._mine([(end, end + count)])
        self._ahead = following, self._pool.submit(self._dataset.batch, following)
        return rows

    def _mine(self, ranges: Sequence[Range]) -> I64:
        whole = np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in ranges])
        return rank_rows(whole, self._rank, self._world_size)

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def micro_batches(rows: Rows, size: int, device: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(tokens_BT, targets_BT, doc_ids_BT with T+1 columns) on the device, at most `size` rows each."""
    tokens, doc_ids = (torch.from_numpy(array) for array in rows)
    for start in range(0, len(tokens), size):
        window = tokens[start : start + size].to(device)
        yield window[:, :-1], window[:, 1:], doc_ids[start : start + size].to(device)
