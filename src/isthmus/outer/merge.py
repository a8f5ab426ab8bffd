"""The numbers of an outer step: contributions into the master, the master into a published version.

Everything is fp32 in a fixed order, so a merge that is computed again from the same payloads gives the same
bits.

    gbar = sum of weight * d              (weights sum to 1; tensors nobody touched are left alone)
    full quorum                           u = m u + gbar;  M -= lr (gbar + m u)
    below it, a = sites there / live      M -= lr a gbar;  acc += a gbar;  progress += a w
      once progress reaches 1             u = m u + acc;  M -= lr m u;  acc = 0;  progress = 0

The lower three lines are Delayed Nesterov (arXiv 2401.09135, c = 0); a full quorum with nothing waiting is
plain Nesterov bit for bit.

w is 1, but for a round of less than half of the usual work its part of it: such a round is delayed too, also
at full quorum. A step of momentum is as long as a usual round's; after the few steps with which a budget ends
it would carry the model past what the sites have reached.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from isthmus.outer import steps
from isthmus.outer.layout import Layout, Segments
from isthmus.outer.weights import Share, merge_weights
from isthmus.wire import codecs

Floats = NDArray[np.float32]
Octets = NDArray[np.uint8]

_WHOLE = 1 - 1e-9
_SHORT = 0.5
"""Below this part of the usual tokens a round is short."""
_USUAL_RATE = 0.1
"""By which the usual tokens follow each round's."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    optimizer: Literal["nesterov", "sgd"] = "nesterov"
    lr: float = 0.7
    momentum: float = 0.9
    codec: str = "int8"
    """Of the payloads."""
    block: int = 128
    share: float = 1.0
    """a: sites that contribute / sites alive; 1: full quorum."""


class Push(NamedTuple):
    """A contribution ready to merge: `payloads` holds one per fragment."""

    share: Share
    payloads: Sequence[Octets]


class Publication(NamedTuple):
    version: int
    payloads: list[Octets]
    """One per fragment, against the version before."""
    hash: str
    finite: bool


class MasterState:
    """What the server keeps of the model, per fragment f32[n]: master M, momentum u, published G, acc.

    `touched[1 + group]` says which groups have something in acc, `usual_tokens` what rounds of all sites
    have had lately (0: there was none).
    """

    def __init__(self, layout: Layout, master: list[Floats]):
        self.layout = layout
        self.version = 0
        self.master = master
        self.momentum = [np.zeros_like(fragment) for fragment in master]
        self.published = [fragment.copy() for fragment in master]
        self.waiting = [np.zeros_like(fragment) for fragment in master]
        self.progress = self.usual_tokens = 0.0
        self.touched = np.zeros(1 + layout.num_groups, np.bool_)
        self.segments = [layout.segments(number) for number in range(layout.num_fragments)]

    @classmethod
    def from_flat(cls, layout: Layout, flat: Floats) -> "MasterState":
        """Version 0 from initial parameters f32[size] in the layout's order (copied)."""
        return cls(layout, [view.copy() for view in layout.views(flat)])

    @property
    def hash(self) -> str:
        return hash_fragments(self.published)


def hash_fragments(fragments: Sequence[Floats]) -> str:
    """Of a version's parameters, fragment by fragment; sites and server compare it."""
    whole = xxhash.xxh3_128()
    for fragment in fragments:
        whole.update(xxhash.xxh3_128_digest(fragment.data.cast("B")))
    return whole.hexdigest()


def merge(state: MasterState, pushes: Sequence[Push], rule: Rule, threads: int = 1) -> None:
    """Take one outer step with these contributions, in this order (the protocol's: site, incarnation, seq).

    Raises:
        CorruptError: a payload has not the size of its fragment; nothing was changed.
        InputError: a contribution counts other expert groups; nothing was changed.
    """
    weights = merge_weights([push.share for push in pushes], state.layout.num_groups)
    for push in pushes:
        assert len(push.payloads) == len(state.master), "one payload for each fragment"
        for payload, master in zip(push.payloads, state.master, strict=True):
            codecs.check_size(rule.codec, payload, master.size, rule.block)
    active = weights.max(axis=0) > 0
    gain = rule.share * _work(state, pushes, rule.share)
    plain = rule.optimizer == "nesterov" and gain >= _WHOLE and state.progress == 0
    waits = rule.optimizer == "nesterov" and not plain
    flushes = waits and state.progress + gain >= _WHOLE
    if waits:
        state.touched |= active
    touched = state.touched.copy()

    def run(number: int) -> None:
        segments = state.segments[number]
        gradient = _mean(state, number, pushes, weights, rule)
        bounds = _bounds(segments, active)
        master, momentum, waiting = state.master[number], state.momentum[number], state.waiting[number]
        lr, beta, share = np.float32(rule.lr), np.float32(rule.momentum), np.float32(rule.share)
        if plain:
            steps.nesterov(master, momentum, gradient, bounds, lr, beta)
        elif waits:
            steps.delayed(master, waiting, gradient, bounds, lr, share)
        else:
            steps.descend(master, gradient, bounds, lr, share)
        if flushes:
            steps.flush(master, momentum, waiting, _bounds(segments, touched), lr, beta)

    _for_each_fragment(run, state, threads)
    if waits:
        state.progress = 0.0 if flushes else state.progress + gain
    if flushes:
        state.touched[:] = False


def _work(state: MasterState, pushes: Sequence[Push], quorum: float) -> float:
    """w of this round, which joins what is usual."""
    tokens, usual = sum(push.share.tokens for push in pushes) / quorum, state.usual_tokens
    state.usual_tokens = usual + _USUAL_RATE * (tokens - usual) if usual else tokens
    part = tokens / usual if usual else 1.0
    return 1.0 if part >= _SHORT else part


def _mean(
    state: MasterState, number: int, pushes: Sequence[Push], weights: NDArray[np.float32], rule: Rule
) -> Floats:
    gradient = np.zeros_like(state.master[number])
    bounds, groups = state.segments[number]
    for push, row in zip(pushes, weights, strict=True):
        payload = push.payloads[number]
        codecs.accumulate(rule.codec, payload, rule.block, bounds, row[1 + groups], gradient)
    return gradient


def _bounds(segments: Segments, groups: NDArray) -> NDArray[np.int64]:
    return segments.bounds[groups[1 + segments.groups]]


def publish(state: MasterState, codec: str, block: int, threads: int = 1) -> Publication:
    """Make the next version: published += decoded(encoded(master - published)), as every site will.

    What the encoding lost stays between master and published and is part of the next delta. With fp32,
    published becomes the master exactly.
    """
    encoded: list[codecs.Encoded | None] = [None] * len(state.master)

    def run(number: int) -> None:
        encoded[number] = codecs.publish(codec, state.master[number], state.published[number], block)

    _for_each_fragment(run, state, threads)
    done = [one for one in encoded if one is not None]
    state.version += 1
    return Publication(
        version=state.version,
        payloads=[one.payload for one in done],
        hash=state.hash,
        finite=all(one.finite for one in done),
    )


def _for_each_fragment(run: Callable[[int], None], state: MasterState, threads: int) -> None:
    """Fragments share nothing, and kernels release the GIL; the result does not depend on `threads`."""
    numbers = range(len(state.master))
    if threads == 1:
        for number in numbers:
            run(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, numbers))


def norm(rule: Rule, payloads: Sequence[Octets], sizes: Sequence[int]) -> float:
    """Of a whole contribution as it decodes; NaN or infinite if anything in it is. Raises CorruptError."""
    return float(
        np.sqrt(
            sum(
                codecs.sum_squares(rule.codec, payload, size, rule.block)
                for payload, size in zip(payloads, sizes, strict=True)
            )
        )
    )


def warm_up() -> None:
    """Compile all kernels, or load them from numba's cache, before the first merge needs them."""
    codecs.warm_up()
    zeros = np.zeros(2, np.float32)
    bounds, one = np.array([[0, 2]], np.int64), np.float32(1)
    steps.nesterov(zeros, zeros.copy(), zeros.copy(), bounds, one, one)
    steps.descend(zeros, zeros.copy(), bounds, one, one)
    steps.delayed(zeros, zeros.copy(), zeros.copy(), bounds, one, one)
    steps.flush(zeros, zeros.copy(), zeros.copy(), bounds, one, one)
