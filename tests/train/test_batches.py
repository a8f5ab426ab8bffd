import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isthmus.train.batches import Batches, micro_batches

RANGES = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    min_size=1,
    max_size=3,
)


class Counting:
    """Sample i is [i, i, ...]."""

    def batch(self, indices):
        tokens = np.repeat(indices.astype(np.int32)[:, None], 5, axis=1)
        return tokens, np.zeros_like(tokens)


@given(st.lists(RANGES, min_size=1, max_size=6), st.integers(1, 3))
def test_the_ranks_together_read_each_step_in_order(steps, world_size):
    rows: list[list[int]] = [[] for _ in steps]
    for rank in range(world_size):
        with Batches(Counting(), rank, world_size) as batches:
            for step, ranges in enumerate(steps):
                rows[step] += batches.load(ranges)[0][:, 0].tolist()
    assert rows == [[i for start, end in ranges for i in range(start, end)] for ranges in steps]


def test_micro_batches_shift_the_targets_and_keep_the_rest():
    rows = Counting().batch(np.arange(5))
    pieces = list(micro_batches(rows, 2, "cpu"))
    assert [len(tokens) for tokens, _, _ in pieces] == [2, 2, 1]
    tokens, targets, doc_ids = pieces[0]
    assert tokens.shape == targets.shape == (2, 4)
    assert doc_ids.shape == (2, 5)
    assert list(micro_batches(Counting().batch(np.arange(0)), 2, "cpu")) == []
