"""A template: one way to cut the model over stages of given chips, replicated. Its exact time and memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from isthmus.planner.cost.convention import MEGATRON, Convention
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.memory import chip_params
from isthmus.planner.cost.network import BRIDGE
from isthmus.planner.cost.shapes import DENSE, EMBEDDING, HEAD, MOE, shapes_of
from isthmus.planner.cost.step import (
    Exchange,
    StageCost,
    StepTime,
    exchange_of,
    scaled,
    step_time,
    with_exchange,
)
from isthmus.planner.cost.table import Floats, Table
from isthmus.planner.cost.tabulate import GRAD_BYTES, kind_seconds, spread, stage_send_s
from isthmus.planner.layout import Layout
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import Family
from isthmus.planner.split import Ints, Shortfall, Split, SplitProblem, shortfall, split
from isthmus.spec.run import RunSpec
from isthmus.units import Bytes


@dataclass(frozen=True)
class Job:
    """What is to be trained, and by which beliefs the chips are judged."""

    run: RunSpec
    factors: Mapping[str, Factors]
    """By the chip's name in the catalogue."""
    convention: Convention = MEGATRON
    """What the training system keeps in memory."""
    _tables: dict[tuple[str, int, float, Layout], Table] = field(default_factory=dict, repr=False)
    _seconds: dict[tuple[str, int, float, Layout], Floats] = field(default_factory=dict, repr=False)
    _weights: dict[tuple[str, int, float, Family], tuple[float, float, float]] = field(
        default_factory=dict, repr=False
    )
    _sync: dict[tuple[int, int, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:
        """Sequences of a site in one step."""
        return self.run.train.batch_size

    def table(self, pool: Pool, layout: Layout) -> Table:
        """Kept, as a search asks for the same one again and again; a step's length does not enter it."""
        layout = replace(layout, micro_batches=1, virtual=1, pp=min(layout.pp, 2))
        key = (pool.name, pool.per_node, pool.speed, layout)
        if key not in self._tables:
            factors, model = self.factors[pool.chip.name], self.run.model
            send = factors.send * factors.total * stage_send_s(model, pool.network, layout)
            table = spread(model, layout, self.kind_seconds(pool, layout), send, self.convention)
            self._tables[key] = _for_split(table)
        return self._tables[key]

    def kind_seconds(self, pool: Pool, layout: Layout) -> Floats:
        """[kind, pass, component] on chips of the pool's speed. Kept: layouts that differ in stages, replicas
        and sharding alone share it."""
        layout = replace(layout, micro_batches=1, virtual=1, pp=1, dp=1, sharding=1)
        key = (pool.name, pool.per_node, pool.speed, layout)
        if key not in self._seconds:
            factors = self.factors[pool.chip.name]
            seconds = kind_seconds(self.run.model, pool.chip, pool.network, layout, factors)
            self._seconds[key] = seconds / pool.speed
        return self._seconds[key]

    def weights(self, pool: Pool, family: Family) -> tuple[float, float, float]:
        """Seconds of a micro-batch: through all blocks, the longest one, and the shortest layer."""
        key = (pool.name, pool.per_node, pool.speed, family)
        if key not in self._weights:
            self._weights[key] = self._weigh(pool, family)
        return self._weights[key]

    def _weigh(self, pool: Pool, family: Family) -> tuple[float, float, float]:
        seconds = self.kind_seconds(pool, layout_of(self, pool, family, (1, 1, 1, 1)))
        forward, backward, again = seconds.sum(axis=2).T
        kind_s = forward + backward + again
        counts = np.bincount(shapes_of(self.run.model).kinds, minlength=len(kind_s))
        if self.run.parallel.recompute == "full":
            forward[[EMBEDDING, HEAD]] = 0.0
            kind_s = kind_s + forward
        layers = [kind for kind in (DENSE, MOE) if counts[kind]]
        return float(kind_s @ counts), float(kind_s[counts > 0].max()), float(kind_s[layers].min())

    def sync_bytes(self, layout: Layout) -> tuple[float, float]:
        """Gradients of all blocks on the chips of one stage's width: of dense parameters and of experts."""
        key = (layout.tp, layout.ep, layout.expert_tp)
        if key not in self._sync:
            shapes = shapes_of(self.run.model)
            kinds = [chip_params(shapes, Layout(tp=key[0], ep=key[1], etp=key[2]), kind) for kind in range(4)]
            dense, experts = GRAD_BYTES * np.array(kinds)[shapes.kinds].sum(axis=0)
            self._sync[key] = float(dense), float(experts)
        return self._sync[key]

    def precision(self, pool: Pool) -> str:
        wanted = self.run.train.precision
        if wanted != "auto":
            return wanted
        return "bf16" if pool.chip.bf16_tflops > pool.chip.fp32_tflops else "fp32"


def _for_split(table: Table) -> Table:
    """What the layout recomputes of every layer belongs to backward, and `recompute_s` is what a split adds
    where it recomputes a whole layer."""
    whole_layer_s = table.forward_s.copy()
    whole_layer_s[[0, -1]] = 0
    backward_s = table.backward_s + table.recompute_s
    return dataclasses.replace(table, backward_s=backward_s, recompute_s=whole_layer_s)


class Segment(NamedTuple):
    """Consecutive stages on chips of one pool."""

    pool: Pool
    tp: int
    stages: int


class Template(NamedTuple):
    """A cut that fits. `layout.dp` replicas of it."""

    layout: Layout
    segments: tuple[Segment, ...]
    split: Split
    time: StepTime
    limits: tuple[int, ...]
    """Usable bytes of each stage's chips."""
    lines_s: float = 0.0
    """Of a step, spent waiting for long lines between sites."""

    @property
    def step_s(self) -> float:
        return self.time.total_s + self.lines_s

    @property
    def num_chips(self) -> int:
        return sum(chips_of(segment, self.layout) for segment in self.segments)

    @property
    def price(self) -> float:
        """Of an hour."""
        return sum(each.pool.price * chips_of(each, self.layout) for each in self.segments)

    def stage_segments(self) -> list[Segment]:
        return [segment for segment in self.segments for _ in range(segment.stages)]


class Miss(NamedTuple):
    """A cut that does not fit, with what is missing."""

    shortfall: Shortfall
    where: str

    def __str__(self) -> str:
        lack = self.shortfall
        if lack.extra_bytes == float("inf"):
            return "fewer layers than stages"
        text = f"memory: {Bytes(int(lack.extra_bytes))} more needed on {self.where}"
        return f"{text}, or at most {lack.layers} layers" if lack.layers else text


def chips_of(segment: Segment, layout: Layout) -> int:
    return segment.stages * segment.tp * layout.cp * layout.dp


def layout_of(job: Job, pool: Pool, family: Family, shape: tuple[int, int, int, int]) -> Layout:
    """`shape`: stages, chunks, replicas, micro-batches."""
    pp, virtual, dp, micro_batches = shape
    return Layout(
        tp=family.tp,
        cp=family.cp,
        pp=pp,
        virtual=virtual,
        dp=dp,
        ep=family.ep,
        etp=family.etp,
        micro_batch=family.micro_batch,
        micro_batches=micro_batches,
        seq_len=job.run.data.seq_len,
        recompute=family.recompute,
        sharding=family.sharding,
        precision=job.precision(pool),  # type: ignore[arg-type]
    )


def evaluate(job: Job, segments: Sequence[Segment], layout: Layout) -> Template | None:
    """The best cut for these stages with its step time, None if nothing fits (`explain_miss` says why)."""
    problem = problem_of(job, segments, layout)
    found = split(problem)
    if found is None:
        return None
    time = time_of(job, segments, layout, found)
    limits = tuple(int(limit) for limit in np.asarray(problem.limit_S))
    return Template(layout, tuple(segments), found, time, limits)


def explain_miss(job: Job, segments: Sequence[Segment], layout: Layout) -> Miss:
    names = dict.fromkeys(segment.pool.name for segment in segments)
    return Miss(shortfall(problem_of(job, segments, layout)), ", ".join(names))


def problem_of(job: Job, segments: Sequence[Segment], layout: Layout) -> SplitProblem:
    tables = [job.table(each.pool, replace(layout, tp=each.tp)) for each in segments]
    counts = [each.stages for each in segments]
    free = 1 - job.run.goal.headroom
    limits = [each.pool.chip.memory_bytes * free for each in segments]

    def stacked(name: str) -> Floats:
        rows = np.array([getattr(table, name) for table in tables])
        if len(counts) == 1:
            return np.broadcast_to(rows[0], (counts[0], *rows.shape[1:]))
        return np.repeat(rows, counts, axis=0)

    fixed = job.run.parallel.recompute
    return SplitProblem(
        forward_SB=stacked("forward_s"),
        backward_SB=stacked("backward_s"),
        recompute_SB=stacked("recompute_s"),
        state_SB=stacked("state_bytes"),
        activation_SB=stacked("activation_bytes"),
        checkpoint_SB=stacked("checkpoint_bytes"),
        fixed_S=stacked("fixed_bytes"),
        working_S=stacked("again_bytes"),
        limit_S=np.repeat(limits, counts),
        send_S=2 * stacked("send_s") * _bridging(segments) if layout.pp > 1 else np.zeros(sum(counts)),
        micro_batches=layout.micro_batches,
        recompute={"full": "full", "none": "none", "selective": "none"}.get(fixed, "auto"),  # type: ignore[arg-type]
        schedule="interleaved" if layout.virtual > 1 else "1f1b",
        virtual=layout.virtual,
    )


def _bridging(segments: Sequence[Segment]) -> Floats:
    """[S]: by how much longer a stage sends where a neighbour's collective library is another."""
    libraries = [each.pool.chip.collectives for each in segments for _ in range(each.stages)]
    if len(set(libraries)) == 1:
        return np.ones(len(libraries))
    bridged = np.array([left != right for left, right in pairwise(libraries)])
    touches = np.append(bridged, False) | np.append(False, bridged)
    return np.where(touches, 1 / BRIDGE, 1.0)


def time_of(job: Job, segments: Sequence[Segment], layout: Layout, cut: Split) -> StepTime:
    """The step of a cut, with what replicas exchange."""
    costs = stage_costs(job, segments, layout, cut)
    nodes = sum(chips_of(each, layout) / each.pool.per_node for each in segments)
    return step_time(costs, layout, nodes, job.factors[segments[0].pool.chip.name])


def stage_costs(job: Job, segments: Sequence[Segment], layout: Layout, cut: Split) -> list[StageCost]:
    """Of every stage of a cut, all its chunks together."""
    firsts_SV, ends_SV = _blocks(cut, job.run.model.num_layers)
    costs: list[StageCost] = []
    for segment in segments:
        own = replace(layout, tp=segment.tp)
        exchange = exchange_for(job, segment.pool, own)
        stages = slice(len(costs), len(costs) + segment.stages)
        running = job.table(segment.pool, own).running
        sums = (running[:, ends_SV[stages]] - running[:, firsts_SV[stages]]).sum(axis=2)
        for forward, dense, experts, whole in zip(*sums.tolist(), cut.time_S[stages].tolist(), strict=True):
            costs.append(with_exchange((forward, whole - forward), dense, experts, exchange))
    return costs


def _blocks(cut: Split, num_layers: int) -> tuple[Ints, Ints]:
    """First and end block of every chunk, [S, V]: the embedding is the first's, the head the last's."""
    ends = cut.ends_S[:, None] + np.arange(cut.virtual) * cut.ends_S[-1]
    firsts = np.concatenate(([0], cut.ends_S[:-1]))[:, None] + np.arange(cut.virtual) * cut.ends_S[-1]
    firsts, ends = firsts + 1, ends + 1
    firsts[0, 0], ends[-1, -1] = 0, num_layers + 2
    return firsts, ends


def exchange_for(job: Job, pool: Pool, layout: Layout) -> Exchange:
    return scaled(exchange_of(pool.chip, pool.network, layout), job.factors[pool.chip.name])
