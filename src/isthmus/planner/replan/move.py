"""State that a new layout has to bring to its chips, and how long that takes.

Of each stage of the new layout and each of its chips, with W bytes of weights and O bytes of optimizer for a
parameter (`convention`), and the optimizer shared by R chips (ZeRO: R the replicas, of experts those that
hold the same ones; else 1):

    bytes = sum over the blocks it did not hold of W p_b + O p_b / R

p_b: parameters of block b on this chip. A chip held what the old stage of the same site and kind had that it
is matched to: those with most blocks in common are matched first, chip by chip. Where the layout of the
optimizer's shards changes (tp, cp, ep, etp, replicas, sharding), O p_b / R is moved of all blocks, and W p_b
where a chip's part of a matrix is another one: a full restart. Each chip receives through its own NIC, so
moving takes as long as the chip that lacks most. A site that held nothing first gets the weights in fp32
over its link, once: (4 P) / link.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from isthmus.planner.cost.memory import expert_replicas
from isthmus.planner.layout import Layout
from isthmus.planner.link import USABLE, shared_link
from isthmus.planner.replan.band import Band
from isthmus.planner.replan.harm import Hit
from isthmus.planner.search.template import Job, Segment
from isthmus.spec.fleet import FleetSpec

PUBLISHED_BYTES = 4
"""Of a parameter in the version that the parameter server publishes."""


class Move(NamedTuple):
    """What is brought, by all ways together."""

    num_bytes: float = 0.0
    seconds: float = 0.0

    def plus(self, other: "Move") -> "Move":
        return Move(self.num_bytes + other.num_bytes, self.seconds + other.seconds)


class _Part(NamedTuple):
    """Chips of one stage, over all replicas."""

    segment: Segment
    layout: Layout
    blocks: frozenset[int]
    chips: int

    @property
    def place(self) -> tuple[str, str]:
        return self.segment.pool.site, self.segment.pool.name

    @property
    def weights(self) -> tuple[int, ...]:
        """What decides which part of a matrix a chip has."""
        return self.segment.tp, self.layout.ep, self.layout.expert_tp, int(self.layout.sharding == 3)

    @property
    def shards(self) -> tuple[int, ...]:
        """What decides which part of the optimizer it has."""
        return *self.weights, self.layout.cp, self.layout.dp, self.layout.sharding


def move_between(job: Job, old: Sequence[Band], new: Sequence[Band]) -> Move:
    """From one layout of a site to another."""
    if tuple(old) == tuple(new):
        return Move()
    had = [[part, part.chips] for band in old for part in _parts(job, band)]
    total, longest_s = 0.0, 0.0
    for part in (part for band in new for part in _parts(job, band)):
        for held, chips in _matched(part, had):
            each = _missing_bytes(job, part, held)
            total += chips * each
            longest_s = max(longest_s, each / (part.segment.pool.chip.nic_gb_s * 1e9))
    return Move(total, longest_s)


def _parts(job: Job, band: Band) -> list[_Part]:
    """Stage by stage. The kind of chip counts, not its speed, so any team stands for all."""
    segments = [each for each in band.teams[0].segments for _ in range(each.stages)]
    first, parts = 0, []
    num_layers, rounds = job.run.model.num_layers, band.ends[-1]
    for stage, (segment, end) in enumerate(zip(segments, band.ends, strict=True)):
        layers = [turn + layer for turn in range(0, num_layers, rounds) for layer in range(first, end)]
        blocks = {1 + layer for layer in layers}
        blocks |= {0} if stage == 0 else set()
        blocks |= {num_layers + 1} if stage == len(segments) - 1 else set()
        chips = segment.tp * band.layout.cp * band.layout.dp
        parts.append(_Part(segment, replace(band.layout, tp=segment.tp), frozenset(blocks), chips))
        first = end
    return parts


def _matched(part: _Part, had: list[list]) -> list[tuple[_Part | None, int]]:
    """(what they held, how many) of the part's chips; takes them out of `had`."""
    near = [each for each in had if each[1] and each[0].place == part.place and each[0].blocks & part.blocks]
    near.sort(key=lambda each: -len(each[0].blocks & part.blocks))
    left, pairs = part.chips, []
    for each in near:
        taken = min(left, each[1])
        each[1] -= taken
        left -= taken
        if taken:
            pairs.append((each[0], taken))
    return [*pairs, (None, left)] if left else pairs


def _missing_bytes(job: Job, part: _Part, held: _Part | None) -> float:
    """Of one chip."""
    new = part.blocks - held.blocks if held else part.blocks
    moved = part.blocks if held is None or held.weights != part.weights else new
    updated = part.blocks if held is None or held.shards != part.shards else new
    return _bytes(job, part, moved)[0] + _bytes(job, part, updated)[1]


def _bytes(job: Job, part: _Part, blocks: frozenset[int]) -> tuple[float, float]:
    """(weights, optimizer) of one chip for some blocks."""
    layout, convention = part.layout, job.convention
    weight, optimizer = convention.weight_bytes, convention.optimizer_bytes
    if layout.precision == "fp32" and weight < 4:
        weight, optimizer = 4.0, optimizer - 4
    table, index = job.table(part.segment.pool, layout), np.array(sorted(blocks), int)
    dense = float(table.sync_bytes[index].sum()) / 4
    experts = float(table.expert_sync_bytes[index].sum()) / 4
    sharers = (layout.dp * layout.cp, expert_replicas(layout)) if layout.sharding else (1.0, 1.0)
    thin = sharers if layout.sharding == 3 else (1.0, 1.0)
    weights = weight * (dense / thin[0] + experts / thin[1])
    return weights, optimizer * (dense / sharers[0] + experts / sharers[1])


def move_to_spares(job: Job, bands: Sequence[Band], hit: Hit, nodes: int) -> Move:
    """All that the hit nodes held, to as many others."""
    band = bands[hit.band]
    part = _parts(job, band)[hit.first]
    each = sum(_bytes(job, part, part.blocks))
    pool = part.segment.pool
    return Move(each * nodes * pool.per_node, each / (pool.chip.nic_gb_s * 1e9))


def read_s(job: Job, bands: Sequence[Band], num_params: int, bytes_per_s: float) -> float:
    """Reading the optimizer's state back from a checkpoint, each node the part that it has: of a replica, or
    of all replicas where they share it out. `bytes_per_s`: of a node."""
    nodes = [1.0]
    for band in bands:
        per_replica = sum(
            each.stages * each.tp * band.layout.cp / each.pool.per_node for each in band.teams[0].segments
        )
        nodes.append(per_replica * (band.layout.dp if band.layout.sharding else 1))
    return num_params * job.convention.optimizer_bytes / max(nodes) / bytes_per_s


def move_to_site(fleet: FleetSpec, site: str, num_params: int) -> Move:
    """The published weights over the site's link."""
    num_bytes = PUBLISHED_BYTES * num_params
    return Move(num_bytes, num_bytes / (USABLE * shared_link(fleet, site).bandwidth.bytes_per_s))
