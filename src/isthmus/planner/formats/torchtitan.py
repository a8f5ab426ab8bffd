"""A pipeline as torchtitan's TOML. Fields checked against pytorch/torchtitan at v0.2.2, the last release
that reads TOML: its main branch configures by Python since February 2026."""

from isthmus.errors import InputError
from isthmus.planner.formats.export import (
    batch_loss,
    placed,
    recompute_loss,
    recompute_needs,
    require_sequences,
    stage_bounds,
)
from isthmus.planner.formats.flavors import flavor_of
from isthmus.planner.formats.foreign import Bounds
from isthmus.planner.layout import Layout
from isthmus.planner.plan import PipelinePlan
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import RunSpec, TrainSpec

Value = str | int | float | bool | list[str] | list[list[str]]
FLOAT8 = "quantize.linear.float8"
NO_CLIP = 1e9
"""A norm of 0 would make every gradient 0."""


def write_torchtitan(pipeline: PipelinePlan, run: RunSpec) -> str:
    """TOML for train.py on `layout.num_chips` ranks; tokenizer and data are left to the user.

    Comments say what is lost. Raises InputError for what torchtitan cannot express.
    """
    layout, bounds = pipeline.layout, stage_bounds(pipeline)
    _refuse(layout, run)
    mode, lost = _checkpointing(pipeline, bounds)
    tables = {
        "model": _model(run.model, layout),
        "training": _training(layout, run),
        "optimizer": _optimizer(run.train),
        "lr_scheduler": _schedule(layout, run.train),
        "parallelism": _parallelism(layout, bounds, bool(run.model.num_experts)),
        "activation_checkpoint": mode,
    }
    lost = [*batch_loss(layout, run), *lost, *_losses(layout, run)]
    lines = [f"# {layout.num_chips} ranks", *(f"# {place}" for place in placed(pipeline))]
    lines += [f"# not in this configuration: {each}" for each in lost]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join([*lines, ""])


def _losses(layout: Layout, run: RunSpec) -> list[str]:
    """What of layout and training the tables do not say, in words."""
    lost: list[str] = []
    if layout.sharding == 1:
        lost.append("sharding of the optimizer alone (written as FSDP that keeps its gathered weights)")
    if not layout.sharding and (shards := _shards(layout)) > 1:
        lost.append(f"weights whole on each replica (sharded by {shards}, as experts over replicas need it)")
    if run.model.num_experts and (run.train.balance.loss != "none" or run.train.balance.z_loss):
        lost.append("train.balance (torchtitan has a bias of the router, as its flavor says)")
    return lost


def _refuse(layout: Layout, run: RunSpec) -> None:
    model = run.model
    if layout.precision not in ("fp32", "bf16", "fp8"):
        raise InputError(f"torchtitan does not train in {layout.precision}", where="torchtitan")
    if run.train.optimizer != "adamw":
        raise InputError(f"torchtitan does not train with {run.train.optimizer}", where="train.optimizer")
    require_sequences(layout, 2 * layout.tp * layout.cp, "torchtitan")
    _refuse_rounds(layout)
    possible = (1, layout.tp) if layout.ep > 1 else (layout.tp,)
    if model.num_experts and layout.expert_tp not in possible:
        raise InputError(
            f"torchtitan cuts an expert over {' or '.join(map(str, possible))} chips, not {layout.expert_tp}",
            where="torchtitan",
            hint=f"set parallel.etp: {layout.tp}",
        )


def _refuse_rounds(layout: Layout) -> None:
    """As torch.distributed.pipelining does."""
    count, pp = layout.micro_batches, layout.pp
    uneven = count % max(1, count // pp) if layout.virtual > 1 else count < pp
    if pp > 1 and uneven:
        needs = "whole rounds" if layout.virtual > 1 else f"at least {pp}"
        raise InputError(
            f"{count} micro-batches for {pp} stages; torchtitan needs {needs}",
            where="plan",
            hint="set another train.batch_size, or fewer stages by parallel.pp",
        )


def _model(model: ModelSpec, layout: Layout) -> dict[str, Value]:
    name, flavor = flavor_of(model)
    table: dict[str, Value] = {"name": name, "flavor": flavor}
    return {**table, "converters": [FLOAT8]} if layout.precision == "fp8" else table


def _training(layout: Layout, run: RunSpec) -> dict[str, Value]:
    """With a pipeline, a replica's whole part of a step goes through it at once."""
    local = layout.micro_batch * (layout.micro_batches if layout.pp > 1 else 1)
    return {
        "local_batch_size": local,
        "global_batch_size": layout.replica_batch * layout.dp,
        "seq_len": layout.seq_len,
        "steps": _steps(layout, run.train),
        "max_norm": run.train.grad_clip or NO_CLIP,
        "mixed_precision_param": "float32" if layout.precision == "fp32" else "bfloat16",
    }


def _optimizer(train: TrainSpec) -> dict[str, Value]:
    beta1, beta2 = train.betas
    return {
        "name": "AdamW",
        "lr": train.lr,
        "beta1": beta1,
        "beta2": beta2,
        "weight_decay": train.weight_decay,
    }


def _schedule(layout: Layout, train: TrainSpec) -> dict[str, Value]:
    """Without decay_ratio the rate falls from the end of the warm-up on."""
    table: dict[str, Value] = {
        "warmup_steps": round(train.warmup * _steps(layout, train)),
        "decay_type": "cosine" if train.schedule == "cosine" else "linear",
        "min_lr_factor": train.min_lr_ratio,
    }
    falls = {"wsd": train.decay, "constant": 0.0}
    return {**table, "decay_ratio": falls[train.schedule]} if train.schedule in falls else table


def _steps(layout: Layout, train: TrainSpec) -> int:
    return max(1, train.tokens // layout.step_tokens)


def _shards(layout: Layout) -> int:
    """Replicas that share the weights out: torchtitan spreads experts over no others."""
    return layout.dp if layout.sharding else layout.expert_unit


def _parallelism(layout: Layout, bounds: Bounds, has_experts: bool) -> dict[str, Value]:
    shards = _shards(layout)
    table: dict[str, Value] = {
        "data_parallel_replicate_degree": layout.dp // shards,
        "data_parallel_shard_degree": shards,
        "fsdp_reshard_after_forward": "always" if layout.sharding == 3 else "never",
        "tensor_parallel_degree": layout.tp,
        "context_parallel_degree": layout.cp,
        "pipeline_parallel_degree": layout.pp,
    }
    if layout.pp > 1:
        table["pipeline_parallel_schedule"] = "Interleaved1F1B" if layout.virtual > 1 else "1F1B"
        table["pipeline_parallel_microbatch_size"] = layout.micro_batch
        table["module_fqns_per_model_part"] = model_parts(bounds)
    if has_experts:
        table["expert_parallel_degree"] = layout.ep
        table["expert_tensor_parallel_degree"] = layout.expert_tp if layout.ep > 1 else 1
    return table


def model_parts(bounds: Bounds) -> list[list[str]]:
    """Names of the modules of each chunk, in model order."""
    chunks = [chunks[turn] for turn in range(len(bounds[0])) for chunks in bounds]
    parts = [[f"layers.{layer}" for layer in range(first, end)] for first, end in chunks]
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", "output"]
    return parts


def _checkpointing(pipeline: PipelinePlan, bounds: Bounds) -> tuple[dict[str, Value], list[str]]:
    """torchtitan recomputes every k-th layer of all stages: the largest k that gives each what it needs."""
    needs = recompute_needs(pipeline)
    if not any(needs):
        is_selective = pipeline.layout.recompute == "selective"
        return ({"mode": "selective", "selective_ac_option": "op"} if is_selective else {"mode": "none"}), []
    sizes = [sum(end - first for first, end in chunks) for chunks in bounds]
    every = max(sizes)
    while every > 1 and any(size // every < need for size, need in zip(sizes, needs, strict=True)):
        every -= 1
    lost = recompute_loss(pipeline, [size // every for size in sizes])
    if every == 1:
        return {"mode": "full"}, lost
    return {"mode": "selective", "selective_ac_option": str(every)}, lost


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
