"""Memory of published runs: settings of their sources, read from the scripts that ran them.

Where a row does not say, its source's script for that model does; nothing here is about single rows.
"""

from typing import NamedTuple

import msgspec

from isthmus.planner.cost.convention import DEEPSPEED, MEGATRON, Convention
from isthmus.planner.cost.memory_fit import MemoryFit
from isthmus.planner.cost.shapes import Shapes, shapes_of
from isthmus.planner.cost.stage_memory import StageMemory, even_bounds, pipeline_memory
from isthmus.planner.layout import Layout, Recompute, Sharding
from isthmus.planner.models.catalogue import find_model
from isthmus.planner.models.known import KnownModel
from isthmus.planner.published.notes import layer_split, stated, total_gib
from isthmus.planner.published.rows import Row
from isthmus.spec.model import ModelSpec

SAILOR = msgspec.structs.replace(
    MEGATRON,
    name="sailor",
    reduce_bytes=4,
    plain_tensors=2,
    flash=False,
    sequence_parallel=False,
    tensor_bytes=0.0,
    fragmentation=0.0,
    context_bytes=5.06e9,
    group_bytes=0.0,
)
"""Megatron-DeepSpeed in fp32 without ZeRO, as Sailor ran it (ae_scripts/clariden_scripts/run_opt.slurm); its
simulator books 5.06 GB for kernels of this platform (runtime_simulator.py)."""


class Usual(NamedTuple):
    """Settings of a source for one model."""

    convention: Convention
    seq_len: int
    micro_batch: int = 1
    accumulate: int = 512
    """Micro-batches of a step, where the row does not say."""
    sharding: Sharding = 1
    recompute: Recompute = "none"
    tied: bool = False
    learned: bool = False
    vocab: int = 0
    """With the padding; 0: the model's."""
    heads: int = 0


def _change(convention: Convention, **changes: object) -> Convention:
    return msgspec.structs.replace(convention, **changes)


_MEGATRON = _change(MEGATRON, tensor_bytes=0.0)
"""Without what was learned from these rows."""
_FLAGSCALE = _change(_MEGATRON, gate_tensors=4)
"""Legacy Megatron-LM layers, whose SwiGLU is not fused."""
USUAL = {
    # megatron-core 0.6.0: its defaults are dropout 0.1, learned positions and a tied head
    "llama3_8B-megatron": Usual(
        _change(_MEGATRON, dropout=True), 8192, tied=True, learned=True, vocab=128_256
    ),
    "llama3_70B-megatron": Usual(
        _change(_MEGATRON, dropout=True), 8192, tied=True, learned=True, vocab=128_256
    ),
    "llama2_70B-megatron": Usual(_FLAGSCALE, 4096, accumulate=44),
    "aquila2_7b-flagscale": Usual(_change(_FLAGSCALE, sequence_parallel=False), 2048, accumulate=9),
    "llama2_7b-deepspeed": Usual(
        _change(DEEPSPEED, norm_bytes=4, logit_bytes=20, frees_gathered=False), 4096, accumulate=1, sharding=3
    ),  # transformers' layers: norms and logits in fp32; zero.Init(mem_efficient_linear=False)
    "llama2_7b-megatron-deepspeed": Usual(DEEPSPEED, 4096, accumulate=32),
    "baichuan2_13b-deepspeed": Usual(
        _change(DEEPSPEED, norm_bytes=4, logit_bytes=20, flash=False), 2048, accumulate=8, recompute="full"
    ),
    "sailor/OPT-350": Usual(
        _change(SAILOR, plain_tensors=1), 2048, sharding=0, learned=True, vocab=50_688
    ),  # ReLU; GPT-2's tokenizer
    "sailor/GPT-NEO": Usual(SAILOR, 2048, sharding=0, tied=True, learned=True, vocab=50_688, heads=32),
}


LEARNED = {
    "megatron": MemoryFit(extra_bytes=1.4e9, tensor_bytes=5.7e9, extra_share=-0.016),
    "deepspeed": MemoryFit(extra_bytes=1.8e9),
    "sailor": MemoryFit(extra_bytes=-0.23e9, tensor_bytes=-0.23e9, extra_share=-0.025),
}
"""By the conventions above, from the 29 published runs of `memory_error` (`isthmus bench planner`)."""


class MemoryCase(NamedTuple):
    """A run as the memory model takes it."""

    id: str
    setting: str
    """Key of USUAL."""
    shapes: Shapes
    layout: Layout
    bounds: list[tuple[int, int]]
    convention: Convention
    used_gib: float
    """0: not stated, or it ran out of memory."""
    total_gib: float
    """Of its chips; 0: not stated."""

    def stages(self, convention: Convention | None = None) -> list[StageMemory]:
        return pipeline_memory(self.shapes, self.layout, self.bounds, convention or self.convention)


def usual_name(row: Row) -> str:
    """Key of USUAL for the row's script; empty: not known."""
    place = row.url_or_repo_path.replace("validation/clariden/", "sailor/")
    return next((name for name in USUAL if f"/{name}/" in place), "")


def memory_case(row: Row) -> MemoryCase | None:
    """None where the source's settings are not known."""
    setting, known = usual_name(row), find_model(row.model)
    if not setting or known is None:
        return None
    usual = USUAL[setting]
    known, layout, convention = _adapted(known, usual), _layout(row, usual), usual.convention
    if layout.precision == "fp32" and convention.flash:
        convention = _change(convention, flash=False)  # flash attention is of 16 bits
    return MemoryCase(
        id=row.id,
        setting=setting,
        shapes=shapes_of(known),
        layout=layout,
        bounds=_bounds(row.notes, known.model, layout),
        convention=convention,
        used_gib=row.memory_used_gib,
        total_gib=total_gib(row.notes),
    )


def _adapted(known: KnownModel, usual: Usual) -> KnownModel:
    spec = known.model
    heads = usual.heads or spec.num_heads
    spec = msgspec.structs.replace(
        spec,
        vocab_size=usual.vocab or spec.vocab_size,
        tied_head=usual.tied,
        max_seq_len=usual.seq_len,
        num_heads=heads,
        num_kv_heads=heads if usual.heads else spec.num_kv_heads,
        head_dim=spec.hidden_size // heads if usual.heads else spec.head_dim,
    )
    positions = "learned" if usual.learned else known.positions
    return msgspec.structs.replace(known, model=spec, positions=positions, embed_dim=0)


def _layout(row: Row, usual: Usual) -> Layout:
    tp, pp, dp = max(1, row.tp), max(1, row.pp), max(1, row.dp)
    micro_batch = row.micro_batch or stated(r"\bLBS", row.notes) or usual.micro_batch
    precision = "fp32" if row.precision == "fp32" or usual.convention.name == "sailor" else "bf16"
    return Layout(
        tp=tp,
        pp=pp,
        dp=dp,
        micro_batch=micro_batch,
        micro_batches=row.global_batch // (micro_batch * dp)
        or stated(r"\bGAS", row.notes)
        or usual.accumulate,
        seq_len=row.seq or stated(r"\bMPE", row.notes) or usual.seq_len,
        recompute="selective" if "recompute=True" in row.notes else usual.recompute,
        sharding=usual.sharding,
        precision="fp8" if "fp8" in row.precision else precision,
    )


def _bounds(notes: str, model: ModelSpec, layout: Layout) -> list[tuple[int, int]]:
    """Sailor's splits count the embedding and the head as layers."""
    sizes = layer_split(notes)
    if len(sizes) != layout.pp or sum(sizes) != model.num_layers + 2:
        return even_bounds(model.num_layers, layout.pp)
    sizes[0] -= 1
    sizes[-1] -= 1
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return list(zip([0, *ends[:-1]], ends, strict=True))
