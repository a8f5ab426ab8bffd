"""The global sample order as arithmetic: index -> (source, ordinal) -> (epoch, sample), O(1), no state.

Two pure maps, both bijections:

* `Mixture` interleaves the sources: a global index belongs to exactly one source, as its `ordinal`-th draw,
  and every prefix [0, n) holds each source within a small constant of its weight's share. It is a binary
  tree of two-way Bresenham splits: of the first n draws of a node, floor(n p / q + 1/2) go left.
* `permute` shuffles each epoch of a source: a mixed-radix Feistel network over a x b >= size with cycle
  walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002), keyed by seed, source
  and epoch.

So sites, ranks and workers may cut [0, N) as they like: the token at a global index never changes.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from isthmus.errors import InputError

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUND_STEPS = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * _GOLDEN
_HALF = np.uint64(32)
_SHARE_BITS = 31
_SHARE = 1 << _SHARE_BITS


def mix(x: U64) -> U64:
    """splitmix64's finaliser: a bijection of 64-bit words in which every input bit stirs every output bit."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def epoch_keys(seed: int, sources: I64, epochs: I64) -> U64:
    """uint64[n] keys of epochs[n] of sources[n]."""
    word = mix(np.array([seed & (2**64 - 1)], np.uint64) + _GOLDEN)
    word = mix(word ^ (sources.astype(np.uint64) + _GOLDEN))
    return mix(word ^ (epochs.astype(np.uint64) + _GOLDEN))


class Domain(NamedTuple):
    """[0, size) laid out as rows x columns, the smallest near-square that holds it; uint64[n] each."""

    size: U64
    rows: U64
    columns: U64

    @classmethod
    def of(cls, sizes: Sequence[int]) -> "Domain":
        """Sizes from 1 to 2^62."""
        rows = [isqrt(size - 1) + 1 for size in sizes]
        columns = [-(-size // row) for size, row in zip(sizes, rows, strict=True)]
        return cls(*(np.array(values, np.uint64) for values in (sizes, rows, columns)))

    def __getitem__(self, which: I64) -> "Domain":  # type: ignore[override]
        return Domain(self.size[which], self.rows[which], self.columns[which])


def permute(indices: I64, domain: Domain, keys: U64) -> I64:
    """Where each of indices[n] lands in the permutation of its domain[n] keyed by keys[n].

    rows x columns exceeds a size by less than its root, so walks back into [0, size) are rare and short.
    """
    out = _feistel(indices.astype(np.uint64), domain, keys)
    limit = int((domain.rows * domain.columns - domain.size).max(initial=0))
    for _ in range(limit):  # a walk visits each value outside [0, size) at most once
        outside = np.flatnonzero(out >= domain.size)
        if not outside.size:
            break
        out[outside] = _feistel(out[outside], domain[outside], keys[outside])
    return out.astype(np.int64)


def _feistel(x: U64, domain: Domain, keys: U64) -> U64:
    left, right = np.divmod(x, domain.columns)
    for i, key in enumerate(mix(keys + _ROUND_STEPS)):
        if i % 2 == 0:
            left = (left + _hash_below(right ^ key, domain.rows)) % domain.rows
        else:
            right = (right + _hash_below(left ^ key, domain.columns)) % domain.columns
    return left * domain.columns + right


def _hash_below(word: U64, bound: U64) -> U64:
    """A hash of `word` scaled to [0, bound), bound < 2^32 (Lemire's multiply-shift)."""
    word = word * _MIX_1
    word = (word ^ (word >> _HALF)) * _MIX_2
    return ((word >> _HALF) * bound) >> _HALF


class _Split(NamedTuple):
    share: int
    """Of every 2^31 draws, how many go left."""
    left: "_Split | int"
    right: "_Split | int"


class Mixture:
    """Interleaves sources by weight, in phases: from index `start` on, `weights` hold. The past stays.

    phases: [(start, weights)...], the first at 0, starts rising, one weight per source. A new source is one
    that had weight 0 until then.
    """

    def __init__(self, phases: Sequence[tuple[int, Sequence[float]]]):
        _check_phases(phases)
        self.phases = [(start, tuple(map(float, weights))) for start, weights in phases]
        self.num_sources = len(phases[0][1])
        self._starts = np.array([start for start, _ in phases], np.int64)
        self._trees = [_build_tree(weights) for _, weights in phases]
        self._before = np.zeros((len(phases), self.num_sources), np.int64)
        for k in range(1, len(phases)):
            length = int(self._starts[k] - self._starts[k - 1])
            self._before[k] = self._before[k - 1] + _leaf_counts(self._trees[k - 1], length, self.num_sources)

    def locate(self, indices: I64) -> tuple[I64, I64]:
        """Global indices[n] -> (source[n], ordinal[n]): draw number `ordinal` of that source."""
        source, ordinal = np.empty_like(indices), np.empty_like(indices)
        phase = np.searchsorted(self._starts, indices, side="right") - 1
        for k in present(phase, len(self.phases)):
            rows = np.flatnonzero(phase == k)
            _descend(self._trees[k], indices[rows] - self._starts[k], rows, (source, ordinal))
            ordinal[rows] += self._before[k][source[rows]]
        return source, ordinal

    def counts(self, end: int) -> I64:
        """How many draws each source has in [0, end): int64[num_sources]."""
        k = int(np.searchsorted(self._starts, end, side="right")) - 1
        length = end - int(self._starts[k])
        return self._before[k] + _leaf_counts(self._trees[k], length, self.num_sources)


def present(labels: I64, num_labels: int) -> list[int]:
    """Which of [0, num_labels) occur, in order."""
    return np.flatnonzero(np.bincount(labels, minlength=num_labels)).tolist()


def _check_phases(phases: Sequence[tuple[int, Sequence[float]]]) -> None:
    starts = [start for start, _ in phases]
    if not phases or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise InputError(
            f"mixture phases start at {starts}", hint="the first starts at 0, each later one further on"
        )
    for start, weights in phases:
        if len(weights) != len(phases[0][1]):
            raise InputError(
                f"the mixture from index {start} on has {len(weights)} weights, not {len(phases[0][1])}",
                hint="give one weight per source; 0 leaves a source out",
            )
        if not all(0 <= w < float("inf") for w in weights) or sum(weights) <= 0:
            raise InputError(
                f"the mixture from index {start} on has the weights {list(weights)}",
                hint="weights are finite, not negative, and at least one is above 0",
            )


def _build_tree(weights: Sequence[float]) -> _Split | int:
    """Heavier sources nearer the root, halves of about equal weight, so that rounding errors stay small."""
    order = sorted((i for i, w in enumerate(weights) if w > 0), key=lambda i: (-weights[i], i))
    return _split(order, weights)


def _split(order: list[int], weights: Sequence[float]) -> _Split | int:
    if len(order) == 1:
        return order[0]
    total, left_weight, cut = sum(weights[i] for i in order), weights[order[0]], 1
    while cut < len(order) - 1 and left_weight + weights[order[cut]] <= total / 2:
        left_weight += weights[order[cut]]
        cut += 1
    share = min(max(round(_SHARE * left_weight / total), 1), _SHARE - 1)
    return _Split(share, _split(order[:cut], weights), _split(order[cut:], weights))


def _taken(n: I64, share: int) -> I64:
    """floor(n * share / 2^31 + 1/2) without overflow for n < 2^62."""
    high, low = n >> _SHARE_BITS, n & (_SHARE - 1)
    return high * share + ((low * share + _SHARE // 2) >> _SHARE_BITS)


def _descend(node: _Split | int, n: I64, rows: I64, out: tuple[I64, I64]) -> None:
    if isinstance(node, int):
        out[0][rows], out[1][rows] = node, n
        return
    before = _taken(n, node.share)
    left = _taken(n + 1, node.share) > before
    right = ~left
    _descend(node.left, before[left], rows[left], out)
    _descend(node.right, (n - before)[right], rows[right], out)


def _leaf_counts(tree: _Split | int, length: int, num_sources: int) -> I64:
    counts = np.zeros(num_sources, np.int64)
    pending: list[tuple[_Split | int, int]] = [(tree, length)]
    while pending:
        node, n = pending.pop()
        if isinstance(node, int):
            counts[node] = n
        else:
            left = int(_taken(np.array([n], np.int64), node.share)[0])
            pending += [(node.left, left), (node.right, n - left)]
    return counts


class Order:
    """Global index -> (source, sample) for sources of `sizes` samples, epoch after epoch of each."""

    def __init__(self, seed: int, sizes: Sequence[int], mixture: Mixture):
        if len(sizes) != mixture.num_sources:
            raise InputError(f"{len(sizes)} sources, but weights for {mixture.num_sources}")
        self.seed = seed
        self.sizes = tuple(sizes)
        self.mixture = mixture
        self._domain = Domain.of(sizes)

    def locate(self, indices: I64) -> tuple[I64, I64]:
        """Global indices[n] -> (source[n], sample[n])."""
        source, ordinal = self.mixture.locate(indices)
        domain = self._domain[source]
        epoch, index = np.divmod(ordinal, domain.size.astype(np.int64))
        return source, permute(index, domain, epoch_keys(self.seed, source, epoch))
