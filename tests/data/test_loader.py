import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.data.dataset import Dataset
from isthmus.data.loader import Loader, cut, rank_rows

RANGES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), max_size=6)


@given(ranges=RANGES, batch_size=st.integers(1, 17), world=st.integers(1, 5))
def test_ranks_share_every_index_once_and_in_order(ranges: list, batch_size: int, world: int):
    halves = [(start, start + length) for start, length in ranges]
    wanted = np.concatenate([np.arange(a, b) for a, b in halves] or [np.zeros(0, int)])
    batches = list(cut(halves, batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    got = [rank_rows(batch, rank, world) for batch in batches for rank in range(world)]
    assert np.array_equal(np.concatenate([*got, np.zeros(0, int)]), wanted)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_are_those_of_the_dataset(dataset: Dataset, workers: int):
    ranges = [(5, 40), (100, 131)]
    out = list(Loader(dataset, ranges, batch_size=8, rank=1, world=2, workers=workers))
    assert [len(batch.indices) for batch in out] == [4] * 8 + [1]
    for batch in out:
        tokens, doc_ids = dataset.batch(batch.indices)
        assert np.array_equal(batch.tokens, tokens)
        assert np.array_equal(batch.doc_ids, doc_ids)


@given(data=st.data())
@settings(max_examples=15)
def test_stream_is_blind_to_sites_ranks_and_workers(dataset: Dataset, data: st.DataObject):
    whole = np.concatenate([tokens for tokens, _ in dataset.stream(0, 150)])
    seen = np.zeros_like(whole)
    start = 0
    while start < 150:
        end = min(150, start + data.draw(st.integers(1, 60)))
        world, workers = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2))
        size = data.draw(st.integers(1, 20))
        for rank in range(world):
            for batch in Loader(dataset, [(start, end)], size, rank, world, workers):
                seen[batch.indices] = batch.tokens
        start = end
    assert np.array_equal(seen, whole)


class _Failing:
    def __init__(self):
        self.loaded = 0

    def batch(self, indices):
        self.loaded += 1
        if 20 in indices:
            raise OSError("disk gone")
        return np.zeros((len(indices), 2), np.int32), np.zeros((len(indices), 2), np.int32)


def test_worker_errors_arrive_in_their_place():
    source = _Failing()
    batches = iter(Loader(source, [(0, 1000)], batch_size=4, workers=2))
    assert len([next(batches) for _ in range(5)]) == 5
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


def test_reading_ahead_is_bounded_and_stops_with_its_reader():
    source = _Failing()
    batches = iter(Loader(source, [(100, 10**9)], batch_size=4, workers=2))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert source.loaded <= 6


def test_impossible_shares_are_refused(dataset: Dataset):
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Loader(dataset, [], batch_size=4, rank=2, world=2)
