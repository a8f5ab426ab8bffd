"""Seconds of one step of a site, put together from the blocks of each stage.

    step = (pipeline + exposed exchange + optimizer + overhead) x waiting for the slowest

Pipeline: the slowest stage runs all m micro-batches, the others once each before and after it, which an
interleaved schedule cuts by the number of chunks (arXiv 2104.04473, sec. 2.2). Exchange over replicas runs
beside compute: what of it shows is `exposed_s`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.ideal import JITTER, STEP_S
from isthmus.planner.cost.memory import expert_replicas
from isthmus.planner.cost.network import Line, Network
from isthmus.planner.cost.table import Table
from isthmus.planner.layout import Layout

OVERLAP = 3.0
"""Exponent p of the smooth maximum: compute C and exchange M side by side take (C^p + M^p)^(1/p)."""
OPTIMIZER_BYTES = 34
"""Read and written for one parameter: gradient (norm, then update), fp32 weight and two moments, weight."""


class Exchange(NamedTuple):
    """What the replicas of a stage exchange: seconds, before any of it is hidden."""

    latency_s: float
    """Of all messages of one step."""
    dense_s: float
    """For each byte of dense gradients (4 bytes for each parameter)."""
    expert_s: float
    gather_s: float
    """For each byte of dense gradients: their weights, gathered after the update."""
    expert_gather_s: float
    optimizer_s: float
    """For each dense parameter of a chip."""
    expert_optimizer_s: float
    """For each parameter of experts."""


def exchange_of(chip: ChipModel, network: Network, layout: Layout, shard_group: int = 0) -> Exchange:
    """Ideal seconds. ZeRO 0: an all-reduce of fp32 gradients. 1 and 2: their reduce-scatter (all-reduce, if
    only groups of `shard_group` replicas share the state), then an all-gather of 16-bit weights. 3: in each
    micro-batch, 16-bit weights gathered for forward and again for backward, and 16-bit gradients scattered
    (arXiv 1910.02054, sec. 7; 2304.11277)."""
    dense, experts = layout.dp * layout.cp, expert_replicas(layout)
    group = shard_group if 0 < shard_group < dense else dense
    words, rounds = _traffic(layout, group < dense)
    dense_line = network.line(dense, layout.tp)
    expert_line = network.line(round(experts), layout.expert_tp * layout.ep)
    gathers = layout.sharding in (1, 2)
    update = OPTIMIZER_BYTES / (chip.memory_gb_s * 1e9)
    return Exchange(
        latency_s=rounds * _hops(dense) * dense_line.latency_s,
        dense_s=words * _share(dense, dense_line),
        expert_s=words * _share(experts, expert_line),
        gather_s=0.5 * _share(group, network.line(group, layout.tp)) if gathers else 0.0,
        expert_gather_s=0.5 * _share(experts, expert_line) if gathers else 0.0,
        optimizer_s=update / (group if layout.sharding else 1),
        expert_optimizer_s=update / (experts if layout.sharding else 1),
    )


def _traffic(layout: Layout, grouped: bool) -> tuple[float, float]:
    """(bytes through the ring for each byte of fp32 gradients, collectives in a step)"""
    if layout.sharding == 3:
        return 1.5 * layout.micro_batches, 3.0 * layout.micro_batches
    return (2.0, 2.0) if layout.sharding == 0 or grouped else (1.0, 2.0)


def _hops(size: float) -> float:
    """Messages one after another: trees over large groups, not rings."""
    return 2 * math.log2(size) if size > 1 else 0.0


def _share(size: float, line: Line) -> float:
    return (size - 1) / size / (line.gb_s * 1e9) if size > 1 else 0.0


class StageCost(NamedTuple):
    """Seconds of one stage; of a micro-batch, then of a step."""

    forward_s: float
    backward_s: float
    """With what is computed again."""
    exchange_s: float
    """Before any of it is hidden."""
    gather_s: float
    """Of weights, after the update; nothing hides it."""
    optimizer_s: float

    @property
    def micro_batch_s(self) -> float:
        return self.forward_s + self.backward_s


def stage_cost(
    table: Table, blocks: Sequence[int], recomputed: int, layout: Layout, exchange: Exchange
) -> StageCost:
    """Of these blocks in their order, the first `recomputed` layers of which are computed again. `exchange`
    is scaled by its factors (`scaled`)."""
    held, last = list(blocks), len(table.forward_s) - 1
    layers = [block for block in held if 0 < block < last]
    again = float(table.recompute_s[layers[:recomputed]].sum())
    sends = layout.virtual * table.send_s if layout.pp > 1 else 0.0
    dense, experts = float(table.sync_bytes[held].sum()), float(table.expert_sync_bytes[held].sum())
    forward_s = float(table.forward_s[held].sum()) + sends
    backward_s = float(table.backward_s[held].sum()) + again + sends
    return with_exchange((forward_s, backward_s), dense, experts, exchange)


def with_exchange(
    micro_batch_s: tuple[float, float], dense: float, experts: float, exchange: Exchange
) -> StageCost:
    """Of a stage whose forward and backward take so long, and its bytes of gradients, of dense parameters
    and of experts."""
    return StageCost(
        *micro_batch_s,
        exchange_s=exchange.latency_s + dense * exchange.dense_s + experts * exchange.expert_s,
        gather_s=dense * exchange.gather_s + experts * exchange.expert_gather_s,
        optimizer_s=(dense * exchange.optimizer_s + experts * exchange.expert_optimizer_s) / 4,
    )


def scaled(exchange: Exchange, factors: Factors) -> Exchange:
    sync, optimizer = factors.sync * factors.total, factors.optimizer * factors.total
    gather = factors.gather * factors.total
    return Exchange(
        exchange.latency_s * sync,
        exchange.dense_s * sync,
        exchange.expert_s * sync,
        exchange.gather_s * gather,
        exchange.expert_gather_s * gather,
        exchange.optimizer_s * optimizer,
        exchange.expert_optimizer_s * optimizer,
    )


class StepTime(NamedTuple):
    """Seconds of one step by what they are spent on; they add up to `total_s`."""

    compute_s: float
    bubble_s: float
    exchange_s: float
    """What shows of it."""
    optimizer_s: float
    overhead_s: float
    waiting_s: float

    @property
    def total_s(self) -> float:
        return sum(self)

    @property
    def working_s(self) -> float:
        """Without the waiting."""
        return sum(self) - self.waiting_s


def exposed_s(window_s: float, exchange_s: float) -> float:
    """What `exchange_s` adds to a window of compute that it runs beside: (C^p + M^p)^(1/p) - C."""
    if exchange_s <= 0:
        return 0.0
    top = max(window_s, exchange_s)
    low = min(window_s, exchange_s)
    return top * (1 + (low / top) ** OVERLAP) ** (1 / OVERLAP) - window_s


def step_time(stages: Sequence[StageCost], layout: Layout, nodes: float, factors: Factors) -> StepTime:
    """One pipeline with its replicas; `nodes` that wait for each other in a step."""
    slowest = max(stage.micro_batch_s for stage in stages)
    compute = layout.micro_batches * slowest
    others = sum(stage.micro_batch_s for stage in stages) - slowest
    bubble = factors.bubble * others / layout.virtual
    window = compute / hidden_over(layout)
    exchange = max(exposed_s(window, stage.exchange_s) + stage.gather_s for stage in stages)
    optimizer = max(stage.optimizer_s for stage in stages)
    overhead = factors.overhead * factors.total * STEP_S
    known = compute + bubble + exchange + optimizer + overhead
    waiting = factors.jitter * JITTER * math.log2(max(1.0, nodes)) * known
    return StepTime(compute, bubble, exchange, optimizer, overhead, waiting)


def hidden_over(layout: Layout) -> int:
    """The window that exchange runs beside is compute / this: a whole step where each micro-batch gathers
    weights (ZeRO 3), its last micro-batch otherwise."""
    return 1 if layout.sharding == 3 else layout.micro_batches
