"""Step time and memory of a rank from a probe's profile: sums and interpolation of what was measured.

A step of m micro-batches of n tokens on one of R data-parallel ranks takes

    m sum_b c_b (f_b(n) + g_b(n)) + (m - 1) sum_b c_b a_b(n) + u P / P' + s + e

with c_b blocks of kind b in the model, f_b, g_b, a_b their forward, backward, and what adding to gradients
takes longer, each linear between the sizes measured; u the optimizer's time on the P' parameters of the
probed model, P those of this one; s the rest of a step; e what the exchange adds (`planner.probed.buckets`).
Times are medians, so that the prediction is the median step's.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

import msgspec

from isthmus.errors import NotFoundError
from isthmus.planner.cost.convention import MOMENTS
from isthmus.planner.plan import SitePlan
from isthmus.planner.probed.buckets import contention, overlap
from isthmus.planner.probed.extract import layers_of
from isthmus.planner.probed.profile import Block, BlockTime, CollectiveRate, Profile, fingerprint
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import RunSpec

NINE_OF_TEN = 1.645
"""Standard deviations of a normal distribution to either side that hold nine values of ten."""
MICRO_BATCH_BLOCKS: tuple[Block, ...] = ("embedding", "attention", "dense", "moe", "head")
BYTES = 4
"""Of a parameter, a gradient and a moment: all are fp32."""


class StepEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Of an inner step of one site."""

    step_s: float
    low_s: float
    """A step takes between low_s and high_s nine times of ten."""
    high_s: float
    parts: dict[str, float]
    """Seconds by block, 'optimizer', 'exchange' and 'step'; they add up to step_s."""


def predict_step(run: RunSpec, site: SitePlan, profile: Profile) -> StepEstimate:
    """Raises NotFoundError where the profile has no blocks of this run's model and sequence length."""
    times = blocks_at(run, profile, site.micro_batch * run.data.seq_len)
    counts = _counts(run.model)
    parts: dict[str, float] = {}
    for name, count in counts.items():
        block = times[name]
        both = site.accumulation * (block.forward_s + block.backward_s)
        parts[name] = count * (both + (site.accumulation - 1) * block.accumulate_s)
    optimizer = _fixed(run.model, profile, "optimizer")
    parts["optimizer"] = optimizer.forward_s * count_params(run.model) / optimizer.params
    parts["exchange"] = _exchange_s(run, site, profile, times)
    parts["step"] = _fixed(run.model, profile, "step").forward_s
    step_s = sum(parts.values())
    weighted = sum(parts[name] * times[name].spread for name in counts)
    weighted += parts["optimizer"] * optimizer.spread
    factor = math.exp(NINE_OF_TEN * weighted / step_s)
    return StepEstimate(step_s=step_s, low_s=step_s / factor, high_s=step_s * factor, parts=parts)


def predict_peak_bytes(run: RunSpec, site: SitePlan, profile: Profile, *, lead: bool, saves: bool) -> int:
    """Largest memory of a rank's process (of its chip, where that is no CPU).

    Held always are parameters and moments, with R > 1 the buckets, and what the process takes anyway. While a
    step runs there are besides the gradients, the kept activations of one micro-batch, and the workspace; a
    step of one micro-batch holds its activations or its gradients, whichever is more, as the ones go while
    the others come. A checkpoint is written from a copy, in memory that steps have left.

    Args:
        lead: rank 0 of a site, which shares three vectors of the parameters with its client.
        saves: rank 0, once it has made a checkpoint.
    """
    tokens = site.micro_batch * run.data.seq_len
    times, counts = blocks_at(run, profile, tokens), _counts(run.model)
    of_params = BYTES * count_params(run.model)
    moments = MOMENTS[run.train.optimizer] * of_params
    buckets = of_params if site.num_ranks > 1 else 0
    kept = sum(count * times[name].activation_bytes for name, count in counts.items())
    passing = kept + of_params if site.accumulation > 1 else max(kept, of_params)
    found = [each for each in profile.workspaces if each.model == fingerprint(run.model)]
    workspace = (
        interpolate([(each.tokens, float(each.num_bytes)) for each in found], tokens) if found else 0.0
    )
    on_host = profile.threads > 0
    shared = 3 * of_params if lead and on_host else 0
    copies = of_params + moments if saves and on_host else 0
    always = profile.fixed_bytes + of_params + moments + buckets + shared
    return round(always + max(passing + workspace, copies))


def blocks_at(run: RunSpec, profile: Profile, tokens: int) -> dict[str, BlockTime]:
    """Each kind of block of the run's model at a micro-batch of `tokens`."""
    return {name: _block_at(run, profile, name, tokens) for name in _counts(run.model)}


def interpolate(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """Linear between the points around `tokens`, and on from the last two; in proportion below the first.

    Values of a larger size are never less than those of a smaller one: noise alone would make them so.
    """
    ordered = sorted(points)
    rising: list[tuple[int, float]] = []
    for size, value in ordered:
        rising.append((size, max(value, rising[-1][1] if rising else 0.0)))
    if tokens <= rising[0][0] or len(rising) == 1:
        return _towards_zero(rising, tokens)
    pairs = list(pairwise(rising))
    (low, at_low), (high, at_high) = next((p for p in pairs if tokens <= p[1][0]), pairs[-1])
    return at_low + (at_high - at_low) * (tokens - low) / (high - low)


def _towards_zero(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """Along the line through the first two points, but not below what is proportional to the first."""
    size, value = points[0]
    proportional = value * tokens / size
    if len(points) == 1 or tokens > size:
        return proportional
    slope = (points[1][1] - value) / (points[1][0] - size)
    return min(value, max(proportional, value + slope * (tokens - size)))


def _counts(model: ModelSpec) -> dict[Block, int]:
    moe = len(model.moe_layers)
    counts: dict[Block, int] = {
        "embedding": 1,
        "attention": model.num_layers,
        "dense": model.num_layers - moe,
        "moe": moe,
        "head": 1,
    }
    return {name: count for name, count in counts.items() if count}


def _block_at(run: RunSpec, profile: Profile, name: Block, tokens: int) -> BlockTime:
    precision, seq_len = run.train.precision, run.data.seq_len
    found = [
        block
        for block in _of(run.model, profile, name)
        if block.seq_len == seq_len and precision in ("auto", block.precision)
    ]
    if not found:
        raise NotFoundError(
            f"the profile has no '{name}' of this model with sequences of {seq_len} in {precision}",
            where=f"profile of {profile.chip}",
            hint="measure it with `isthmus probe --run run.yaml --out profile.json`",
        )
    values = {
        field: interpolate([(block.tokens, float(getattr(block, field))) for block in found], tokens)
        for field in ("forward_s", "backward_s", "activation_bytes")
    }
    nearest = min(found, key=lambda block: abs(block.tokens - tokens))
    return msgspec.structs.replace(
        nearest,
        tokens=tokens,
        forward_s=values["forward_s"],
        backward_s=values["backward_s"],
        activation_bytes=round(values["activation_bytes"]),
        accumulate_s=median(block.accumulate_s for block in found),
        spread=max(block.spread for block in found),
    )


def _of(model: ModelSpec, profile: Profile, name: Block) -> list[BlockTime]:
    shapes = fingerprint(model)
    return [block for block in profile.blocks if block.block == name and block.model == shapes]


def _fixed(model: ModelSpec, profile: Profile, name: Block) -> BlockTime:
    found = _of(model, profile, name)
    if not found:
        raise NotFoundError(
            f"the profile has no '{name}' of this model",
            where=f"profile of {profile.chip}",
            hint="measure it with `isthmus probe --run run.yaml --out profile.json`",
        )
    return found[0]


def _exchange_s(run: RunSpec, site: SitePlan, profile: Profile, times: Mapping[str, BlockTime]) -> float:
    """What the exchange of gradients adds to a step of this site, whose ranks are all on one machine."""
    if site.num_ranks == 1:
        return 0.0
    rate = _all_reduce(profile, site.num_ranks)
    alone = overlap(run.model, _backward_s(times, site.accumulation > 1), rate)
    return alone.added_s(_contention(run, profile, rate))


def _backward_s(times: Mapping[str, BlockTime], accumulates: bool) -> dict[str, float]:
    return {
        name: block.backward_s + (block.accumulate_s if accumulates else 0.0) for name, block in times.items()
    }


def _contention(run: RunSpec, profile: Profile, rate: CollectiveRate) -> float:
    """The median over the sizes measured; 1 where the probe ran no ranks together: nothing is hidden."""
    found: list[float] = []
    for taken in profile.exchanges:
        if taken.model != fingerprint(run.model) or taken.ranks != rate.ranks:
            continue
        probed = layers_of(run.model, taken.num_layers - taken.moe_layers, taken.moe_layers)
        times = blocks_at(run, profile, taken.tokens)
        found.append(contention(taken.added_s, overlap(probed, _backward_s(times, True), rate)))
    return median(found) if found else 1.0


def _all_reduce(profile: Profile, ranks: int) -> CollectiveRate:
    """Of this many ranks, or of the nearest number that was measured."""
    found = [rate for rate in profile.collectives if rate.kind == "all_reduce"]
    if not found:
        raise NotFoundError(
            f"the profile has no all-reduce, which {ranks} ranks need",
            where=f"profile of {profile.chip}",
            hint=f"measure it with `isthmus probe --ranks {ranks} --run run.yaml --out profile.json`",
        )
    return min(found, key=lambda rate: abs(rate.ranks - ranks))
