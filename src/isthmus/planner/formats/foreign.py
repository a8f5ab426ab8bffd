"""What a configuration of another trainer says, in this planner's terms, and what all readers share."""

import msgspec

from isthmus.errors import InputError
from isthmus.planner.layout import Layout
from isthmus.planner.models.known import KnownModel
from isthmus.spec.model import ModelSpec

Bounds = list[list[tuple[int, int]]]
"""Of each stage, (first, end) of the layers of each of its chunks."""


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    framework: str
    known: KnownModel
    """The model, with what ModelSpec cannot say of it."""
    layout: Layout
    bounds: Bounds
    recompute_layers: list[int]
    """Of each stage: layers whose activations backward computes again."""
    global_batch: int
    """Sequences in a step, over all replicas."""
    warnings: list[str] = []
    """What of the configuration this planner does not take into account, by name."""

    @property
    def model(self) -> ModelSpec:
        return self.known.model

    @property
    def stage_layers(self) -> list[int]:
        return [sum(end - first for first, end in chunks) for chunks in self.bounds]


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    """How a step is divided: global_batch = replicas x micro_batches x micro_batch."""

    replicas: int
    micro_batch: int
    global_batch: int

    def micro_batches(self, where: str) -> int:
        at_once = self.replicas * self.micro_batch
        if self.global_batch < 1 or self.global_batch % at_once:
            raise InputError(
                f"a global batch of {self.global_batch} is not divisible among {self.replicas} replicas "
                f"of micro-batch {self.micro_batch}",
                where=where,
                hint=f"make it a multiple of {at_once}",
            )
        return self.global_batch // at_once


def count_replicas(num_chips: int, per_replica: int, where: str) -> int:
    """Data-parallel degree of `num_chips` chips. Raises InputError where they do not divide."""
    if num_chips < 1:
        raise InputError(
            "the file does not say on how many chips it runs", where=where, hint="give --chips N"
        )
    if num_chips % per_replica:
        raise InputError(
            f"{num_chips} chips are not divisible by the {per_replica} chips of a replica",
            where=where,
            hint=f"give a multiple of {per_replica}, or change the tensor, context or pipeline degree",
        )
    return num_chips // per_replica


def looped_bounds(sizes: list[int], stages: int) -> Bounds:
    """Chunk c of `sizes` layers, in model order, goes to stage c mod `stages`."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    chunks = [(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return [chunks[stage::stages] for stage in range(stages)]


def chunk_sizes(bounds: Bounds) -> list[int]:
    """Inverse of `looped_bounds`."""
    depth = max(len(chunks) for chunks in bounds)
    return [chunks[turn][1] - chunks[turn][0] for turn in range(depth) for chunks in bounds]


def require_layers(sizes: list[int], num_layers: int, where: str) -> None:
    if sum(sizes) != num_layers or min(sizes) < 0:
        raise InputError(
            f"the stages hold {sum(sizes)} layers, the model has {num_layers}",
            where=where,
            hint="make the two agree",
        )


def require_experts(model: ModelSpec, layout: Layout, where: str) -> None:
    """Raises InputError where experts and chips do not divide."""
    if layout.ep > 1 and not model.num_experts:
        raise InputError(
            "expert parallelism without experts", where=where, hint="leave it away, or give the experts"
        )
    if model.num_experts and model.num_experts % layout.ep:
        raise InputError(f"{model.num_experts} experts are not divisible by {layout.ep} chips", where=where)
    per_stage = layout.tp * layout.cp * layout.dp
    if per_stage % (layout.ep * layout.expert_tp):
        raise InputError(
            f"{per_stage} chips of a stage are not divisible by ep {layout.ep} x etp {layout.expert_tp}",
            where=where,
        )
