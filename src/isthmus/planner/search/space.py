"""The layouts that are possible in principle: degrees that divide what they cut."""

from collections.abc import Iterator
from typing import NamedTuple

from isthmus.planner.layout import Recompute, Sharding
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import ParallelSpec, RunSpec

CONTEXT_TOKENS = 4096
"""Tokens of a sequence that a chip keeps at least before context parallelism is worth its exchange."""
MAX_MICRO_TOKENS = 65_536
MAX_EXPERT_PARALLEL = 64


class Family(NamedTuple):
    """Layouts that differ only in stages, chunks and replicas: their blocks cost the same time."""

    tp: int
    cp: int
    ep: int
    etp: int
    micro_batch: int
    recompute: Recompute
    sharding: Sharding

    def __str__(self) -> str:
        parts = [("tp", self.tp), ("cp", self.cp), ("ep", self.ep), ("micro-batch", self.micro_batch)]
        shown = [f"{name} {size}" for name, size in parts if size > 1 or name in ("tp", "micro-batch")]
        extra = [f"etp {self.etp}"] * (self.etp != self.tp and self.ep > 1)
        kept = [f"recompute {self.recompute}"] * (self.recompute != "none") + ["sharded"] * (
            self.sharding == 3
        )
        return ", ".join([*shown, *extra, *kept])


def families(run: RunSpec, per_node: int) -> list[Family]:
    """Of chips in nodes of `per_node`. What the run fixes is kept, what does not divide is left out."""
    model, fixed = run.model, run.parallel
    return [
        Family(tp, cp, ep, etp, micro_batch, recompute, sharding)
        for tp in tensor_degrees(model, fixed, per_node)
        for cp in context_degrees(fixed, run.data.seq_len)
        for ep in expert_degrees(model, fixed)
        for etp in _expert_tensor_degrees(model, fixed, tp)
        for micro_batch in micro_batches(run, cp)
        for recompute in _recomputes(fixed)
        for sharding in _shardings(fixed)
    ]


def tensor_degrees(model: ModelSpec, fixed: ParallelSpec, per_node: int) -> list[int]:
    """Divisors of the heads, and of every width, that stay inside a node."""
    widths = [
        model.num_heads,
        model.hidden_size,
        model.ffn_size if not _all_moe(model) else model.expert_width,
    ]
    fits = [
        tp
        for tp in range(1, per_node + 1)
        if per_node % tp == 0 and all(width % tp == 0 for width in widths) and _shares_kv(model, tp)
    ]
    return [tp for tp in fits if fixed.tp in (0, tp)]


def context_degrees(fixed: ParallelSpec, seq_len: int) -> list[int]:
    if fixed.cp:
        return [fixed.cp]
    return [
        cp
        for cp in (1, 2, 4, 8, 16)
        if cp == 1 or (seq_len // cp >= CONTEXT_TOKENS and seq_len % (2 * cp) == 0)
    ]


def expert_degrees(model: ModelSpec, fixed: ParallelSpec) -> list[int]:
    if not model.moe_layers:
        return [1]
    divisors = _divisors(model.num_experts, MAX_EXPERT_PARALLEL)
    return [ep for ep in divisors if fixed.ep in (0, ep)]


def micro_batches(run: RunSpec, cp: int) -> list[int]:
    fixed = run.train.micro_batch_size
    if fixed:
        return [fixed]
    most = max(1, MAX_MICRO_TOKENS * cp // run.data.seq_len)
    return [size for size in _powers(min(most, run.train.batch_size)) if run.train.batch_size % size == 0]


def _expert_tensor_degrees(model: ModelSpec, fixed: ParallelSpec, tp: int) -> list[int]:
    if not model.moe_layers:
        return [tp]
    return [etp for etp in sorted({tp, 1}) if fixed.etp in (0, etp) and model.expert_width % etp == 0]


def _recomputes(fixed: ParallelSpec) -> Iterator[Recompute]:
    """Of all layers. Whole layers are the split's to recompute, as many as memory asks for."""
    if fixed.recompute != "selective":
        yield "none"
    if fixed.recompute in ("auto", "selective"):
        yield "selective"


def _shardings(fixed: ParallelSpec) -> Iterator[Sharding]:
    by_name: dict[str, tuple[Sharding, ...]] = {"auto": (1, 3), "none": (0,), "optimizer": (1,), "full": (3,)}
    yield from by_name[fixed.sharding]


def _shares_kv(model: ModelSpec, tp: int) -> bool:
    return model.num_kv_heads % tp == 0 or tp % model.num_kv_heads == 0


def _all_moe(model: ModelSpec) -> bool:
    return len(model.moe_layers) == model.num_layers


def _divisors(number: int, most: int) -> list[int]:
    return [each for each in range(1, min(number, most) + 1) if number % each == 0]


def _powers(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2
