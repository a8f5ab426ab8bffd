"""The order is a bijection, balanced in every prefix, and blind to how [0, N) is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.data.order import Domain, Mixture, Order, epoch_keys, permute
from isthmus.errors import InputError

WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)


def _shuffle(indices, size: int, seed: int, epoch: int = 0):
    ones = np.ones(len(indices), np.int64)
    return permute(np.asarray(indices), Domain.of([size])[ones * 0], epoch_keys(seed, ones * 0, ones * epoch))


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_permutation_is_a_bijection(size: int, seed: int):
    out = _shuffle(np.arange(size), size, seed)
    assert np.array_equal(np.sort(out), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10**9 + 7, 10**12 + 1, 2**62])
def test_permutation_stays_in_range_at_any_size(size: int):
    indices = np.unique(np.linspace(0, size - 1, 4096).astype(np.int64).clip(0, size - 1))
    out = _shuffle(indices, size, 3)
    assert out.min() >= 0
    assert out.max() < size
    assert len(np.unique(out)) == len(indices)


def test_permutation_shuffles():
    size = 100_000
    a, b = _shuffle(np.arange(size), size, 1), _shuffle(np.arange(size), size, 1, epoch=1)
    other_seed = _shuffle(np.arange(size), size, 2)
    for out in (a, b, other_seed):
        assert abs(np.corrcoef(out, np.arange(size))[0, 1]) < 0.02
        assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.02
        halves = np.histogram(out[: size // 2], bins=50, range=(0, size))[0]
        assert np.all(np.abs(halves - 1000) < 6 * np.sqrt(500))
    assert np.mean(a == b) < 0.001
    assert np.mean(a == other_seed) < 0.001


def test_permutation_is_pinned():
    """The order is part of the run's identity: a change of it must be seen."""
    assert _shuffle(np.arange(8), 1000, 7).tolist() == [739, 668, 473, 726, 959, 778, 54, 771]


@given(weights=WEIGHTS, n=st.integers(0, 20_000))
@settings(max_examples=60)
def test_every_prefix_is_balanced_and_ordinals_count_up(weights: list[float], n: int):
    mixture = Mixture([(0, weights)])
    source, ordinal = mixture.locate(np.arange(n))
    share = np.array(weights) / sum(weights)
    for s in range(len(weights)):
        mine = source == s
        assert np.array_equal(ordinal[mine], np.arange(mine.sum()))
        drift = np.cumsum(mine) - share[s] * np.arange(1, n + 1)
        assert np.all(np.abs(drift) < 2.0)
    assert np.array_equal(mixture.counts(n), np.bincount(source, minlength=len(weights)))


def test_balance_holds_far_out():
    weights = (0.7, 0.2, 0.1)
    counts = Mixture([(0, weights)]).counts(10**12)
    assert counts.sum() == 10**12
    assert np.all(np.abs(counts / 10**12 - weights) < 1e-9)


@given(cut=st.integers(1, 2000), weights=st.lists(st.floats(0, 10), min_size=3, max_size=3))
@settings(max_examples=40)
def test_a_change_of_mixture_leaves_the_past_alone_and_loses_nothing(cut: int, weights: list[float]):
    weights[0] += 0.1
    before = Mixture([(0, (1.0, 2.0, 0.0))])
    after = Mixture([(0, (1.0, 2.0, 0.0)), (cut, weights)])
    old, new = before.locate(np.arange(3000)), after.locate(np.arange(3000))
    assert np.array_equal(old[0][:cut], new[0][:cut])
    assert np.array_equal(old[1][:cut], new[1][:cut])
    for s in range(3):
        mine = new[1][new[0] == s]
        assert np.array_equal(mine, np.arange(len(mine)))
    assert np.array_equal(after.counts(3000), np.bincount(new[0], minlength=3))


@given(data=st.data())
@settings(max_examples=30)
def test_order_is_blind_to_cuts(data: st.DataObject):
    order = Order(5, [97, 411, 8], Mixture([(0, (3, 1, 2)), (700, (1, 1, 0))]))
    whole = order.locate(np.arange(2000))
    cuts = sorted({0, 2000, *data.draw(st.lists(st.integers(0, 2000), max_size=12))})
    pieces = [order.locate(np.arange(a, b)) for a, b in pairwise(cuts)]
    for part in (0, 1):
        assert np.array_equal(whole[part], np.concatenate([piece[part] for piece in pieces]))


def test_every_sample_once_per_epoch_of_its_source():
    sizes = [50, 120]
    order = Order(1, sizes, Mixture([(0, (1.0, 1.0))]))
    source, sample = order.locate(np.arange(1000))
    for s, size in enumerate(sizes):
        mine = sample[source == s]
        epochs = [mine[i : i + size] for i in range(0, len(mine) - size + 1, size)]
        assert len(epochs) >= 4
        assert all(np.array_equal(np.sort(epoch), np.arange(size)) for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    "phases",
    [
        [],
        [(1, (1.0,))],
        [(0, (1.0,)), (0, (2.0,))],
        [(0, (0.0, 0.0))],
        [(0, (1.0,)), (5, (1.0, 1.0))],
        [(0, (-1, 2))],
    ],
)
def test_impossible_mixtures_are_refused(phases):
    with pytest.raises(InputError):
        Mixture(phases)
