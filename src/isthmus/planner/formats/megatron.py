"""A pipeline as Megatron-LM arguments. Names checked against NVIDIA/Megatron-LM at d98e8a64 (August 2026)."""

import shlex

from isthmus.errors import InputError
from isthmus.planner.formats.export import (
    batch_loss,
    placed,
    recompute_loss,
    recompute_needs,
    require_sequences,
    stage_bounds,
)
from isthmus.planner.formats.foreign import Bounds, chunk_sizes
from isthmus.planner.formats.megatron_training import Option, step_options, training_losses
from isthmus.planner.formats.notation import FREQ, LAYOUT, write_freq, write_layout
from isthmus.planner.layout import Layout
from isthmus.planner.plan import PipelinePlan
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import RunSpec

SHARDING = {0: "no_shard", 1: "optim", 2: "optim_grads", 3: "optim_grads_params"}
"""Megatron-FSDP's names of the ZeRO stages."""


def write_megatron(pipeline: PipelinePlan, run: RunSpec) -> str:
    """Shell text: `megatron_args=( ... )`, to be passed to pretrain_gpt.py on `layout.num_chips` ranks.

    Tokenizer, data and checkpoints are left to the user. Comments say what is lost. Raises InputError for
    what Megatron-LM cannot express.
    """
    model, layout, bounds = run.model, pipeline.layout, stage_bounds(pipeline)
    _refuse(model, layout)
    groups = {
        "model": model_options(model),
        "parallel": parallel_options(layout, model, bounds),
        "step": step_options(layout, run),
        "memory": recompute_options(pipeline, bounds),
    }
    lost = [*batch_loss(layout, run), *losses(pipeline, model, bounds), *training_losses(run)]
    lines = [f"# {layout.num_chips} ranks: tp {layout.tp}, cp {layout.cp}, pp {layout.pp}, dp {layout.dp}"]
    lines += [f"# {place}" for place in (*placed(pipeline), *_environment(layout))]
    lines += [f"# not in these arguments: {each}" for each in lost]
    lines.append("megatron_args=(")
    for name, options in groups.items():
        lines += [f"  # {name}", *(f"  {' '.join(map(shlex.quote, option))}" for option in options)]
    return "\n".join([*lines, ")", ""])


def _environment(layout: Layout) -> list[str]:
    """What Megatron-LM insists on, of chips before Blackwell."""
    if layout.sharding > 1:
        return ["start without CUDA_DEVICE_MAX_CONNECTIONS=1, which Megatron-FSDP refuses"]
    return ["start with CUDA_DEVICE_MAX_CONNECTIONS=1"] if layout.tp > 1 or layout.cp > 1 else []


def _refuse(model: ModelSpec, layout: Layout) -> None:
    require_sequences(layout, layout.tp * layout.cp * (2 if layout.cp > 1 else 1), "Megatron-LM")
    if layout.virtual > 1 and layout.micro_batches % layout.pp:
        raise InputError(
            f"{layout.micro_batches} micro-batches are no whole rounds of {layout.pp} stages, as Megatron-LM "
            "needs for virtual stages",
            where="plan",
            hint="set another train.batch_size, or parallel.virtual: 1",
        )
    if model.router_bias and model.router_score != "sigmoid":
        raise InputError(
            "a router bias needs sigmoid scores in Megatron-LM",
            where="model.router_bias",
            hint="set model.router_score: sigmoid",
        )


def model_options(model: ModelSpec) -> list[Option]:
    options: list[Option] = [
        ("--num-layers", str(model.num_layers)),
        ("--hidden-size", str(model.hidden_size)),
        ("--ffn-hidden-size", str(model.ffn_size)),
        ("--num-attention-heads", str(model.num_heads)),
        ("--group-query-attention",),
        ("--num-query-groups", str(model.num_kv_heads)),
        ("--kv-channels", str(model.head_dim)),
        ("--swiglu",),
        ("--disable-bias-linear",),
        ("--normalization", "RMSNorm"),
        ("--norm-epsilon", f"{model.norm_eps:g}"),
        ("--position-embedding-type", "rope"),
        ("--rotary-base", f"{model.rope_theta:.0f}"),
        ("--max-position-embeddings", str(model.max_seq_len)),
        ("--vocab-size", str(model.vocab_size)),
        ("--make-vocab-size-divisible-by", "1"),
        ("--attention-dropout", "0"),
        ("--hidden-dropout", "0"),
    ]
    flags = {
        "--untie-embeddings-and-output-weights": not model.tied_head,
        "--add-qkv-bias": model.qkv_bias,
        "--qk-layernorm": model.qk_norm != "none",
    }
    options += [(name,) for name, is_set in flags.items() if is_set]
    return options + _rope_options(model) + (_moe_options(model) if model.num_experts else [])


def _rope_options(model: ModelSpec) -> list[Option]:
    scaling = model.rope_scaling
    if scaling.kind == "llama3":
        return [("--use-rope-scaling",), ("--rope-scaling-factor", f"{scaling.factor:g}")]
    if scaling.kind == "linear" and scaling.factor == int(scaling.factor):
        return [("--rotary-seq-len-interpolation-factor", f"{scaling.factor:.0f}")]
    return []


def _moe_options(model: ModelSpec) -> list[Option]:
    options: list[Option] = [
        ("--num-experts", str(model.num_experts)),
        ("--moe-router-topk", str(model.top_k)),
        ("--moe-ffn-hidden-size", str(model.expert_width)),
        (FREQ, write_freq(model)),
        ("--moe-router-score-function", model.router_score),
        ("--moe-grouped-gemm",),
        ("--moe-token-dispatcher-type", "alltoall"),
    ]
    if model.shared_ffn_size:
        options.append(("--moe-shared-expert-intermediate-size", str(model.shared_ffn_size)))
    if not model.renormalize:
        options.append(("--moe-router-pre-softmax",))
    if model.router_bias:
        options.append(("--moe-router-enable-expert-bias",))
    if model.route_scale != 1.0:
        options.append(("--moe-router-topk-scaling-factor", f"{model.route_scale:g}"))
    return options


def parallel_options(layout: Layout, model: ModelSpec, bounds: Bounds) -> list[Option]:
    options: list[Option] = [
        ("--tensor-model-parallel-size", str(layout.tp)),
        ("--context-parallel-size", str(layout.cp)),
        ("--pipeline-model-parallel-size", str(layout.pp)),
        *_split_options(layout, bounds),
    ]
    if layout.tp > 1:
        options.append(("--sequence-parallel",))
    if model.num_experts:
        options.append(("--expert-model-parallel-size", str(layout.ep)))
        options.append(("--expert-tensor-parallel-size", str(layout.expert_tp)))
    if layout.sharding > 1:
        options += [("--use-megatron-fsdp",), ("--use-distributed-optimizer",)]
        options.append(("--ckpt-format", "fsdp_dtensor"))
        options.append(("--data-parallel-sharding-strategy", SHARDING[layout.sharding]))
    elif layout.sharding == 1:
        options += [("--use-distributed-optimizer",), ("--overlap-param-gather",)]
    return [*options, ("--overlap-grad-reduce",)]


def _split_options(layout: Layout, bounds: Bounds) -> list[Option]:
    """Nothing for an even split; Megatron-LM takes a split by hand as a layout of its letters."""
    sizes = chunk_sizes(bounds)
    if len(set(sizes)) > 1:
        return [(LAYOUT, write_layout(sizes))]
    return [("--num-layers-per-virtual-pipeline-stage", str(sizes[0]))] if layout.virtual > 1 else []


def recompute_options(pipeline: PipelinePlan, bounds: Bounds) -> list[Option]:
    """One number for all stages, of each chunk: the smallest that gives every stage what it needs."""
    if not any(recompute_needs(pipeline)):
        is_selective = pipeline.layout.recompute == "selective"
        return [("--recompute-granularity", "selective")] if is_selective else []
    return [
        ("--recompute-granularity", "full"),
        ("--recompute-method", "block"),
        ("--recompute-num-layers", str(_block_layers(pipeline, bounds))),
    ]


def _block_layers(pipeline: PipelinePlan, bounds: Bounds) -> int:
    needs, count = recompute_needs(pipeline), 0
    while any(block_recompute(chunks, count) < need for chunks, need in zip(bounds, needs, strict=True)):
        count += 1
    return count


def block_recompute(chunks: list[tuple[int, int]], per_chunk: int) -> int:
    """Layers of a stage that are computed again if the first `per_chunk` of each chunk are."""
    return sum(min(per_chunk, end - first) for first, end in chunks)


def losses(pipeline: PipelinePlan, model: ModelSpec, bounds: Bounds) -> list[str]:
    """What of model and plan the arguments do not say, in words."""
    count = _block_layers(pipeline, bounds)
    found = recompute_loss(pipeline, [block_recompute(chunks, count) for chunks in bounds])
    if model.gate_norm:
        found.append("model.gate_norm")
    if model.qk_norm == "all":
        found.append("model.qk_norm: all (written as a norm of each head)")
    if model.router_score == "sigmoid" and not model.renormalize and model.top_k > 1:
        found.append("model.renormalize: false (sigmoid weights always sum to one)")
    if model.rope_scaling.kind != "none" and not _rope_options(model):
        found.append(f"model.rope_scaling: {model.rope_scaling.kind}")
    return found
