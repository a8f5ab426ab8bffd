"""torchtitan's TOML (v0.2) as model and layout."""

import math
import tomllib
from typing import Any

from isthmus.errors import InputError
from isthmus.planner.formats.flavors import find_flavor
from isthmus.planner.formats.foreign import (
    Batches,
    Bounds,
    Foreign,
    count_replicas,
    looped_bounds,
    require_experts,
    require_layers,
)
from isthmus.planner.formats.torchtitan import FLOAT8
from isthmus.planner.layout import Layout, Precision, Recompute, Sharding
from isthmus.spec.model import ModelSpec

_SINGLE = ("1f1b", "gpipe")
"""Schedules of one chunk a stage; of the others torchtitan makes two unless told."""
_V_SHAPED = ("zbvzerobubble", "dualpipev")
_PARTS = "parallelism.module_fqns_per_model_part"


class Table:
    """One table of the file, read with types."""

    def __init__(self, tree: dict[str, Any], name: str) -> None:
        value = tree.get(name, {})
        if not isinstance(value, dict):
            raise InputError("it is not a table", where=name)
        self.values: dict[str, Any] = value
        self.name = name

    def number(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 10**9 or value == 0:
            raise InputError(f"{value!r} is not a whole number of at least 1", where=f"{self.name}.{key}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise InputError(f"{value!r} is not a text", where=f"{self.name}.{key}")
        return value


def is_torchtitan(text: str) -> bool:
    return "[model]" in text and "flavor" in text


def read_torchtitan(text: str, num_chips: int) -> Foreign:
    """Raises InputError by field."""
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"not TOML: {error}", where="torchtitan") from None
    model, parallel, training = (Table(tree, name) for name in ("model", "parallelism", "training"))
    known = find_flavor(model.text("name", "llama3"), model.text("flavor", "debugmodel"))
    tp = parallel.number("tensor_parallel_degree", 1)
    cp = parallel.number("context_parallel_degree", 1)
    pp = parallel.number("pipeline_parallel_degree", 1)
    dp = _replicas(parallel, num_chips, tp * cp * pp)
    local = training.number("local_batch_size", 8)
    total = training.number("global_batch_size", -1)
    batches = Batches(
        replicas=dp,
        micro_batch=parallel.number("pipeline_parallel_microbatch_size", 1) if pp > 1 else local,
        global_batch=total if total > 0 else local * dp,
    )
    bounds = _bounds(parallel, known.model, pp)
    recompute, counts = _recompute(Table(tree, "activation_checkpoint"), bounds)
    etp = parallel.number("expert_tensor_parallel_degree", 1)
    ep = parallel.number("expert_parallel_degree", 1)
    layout = Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        virtual=len(bounds[0]),
        dp=dp,
        ep=ep,
        etp=0 if etp == tp or ep == 1 else etp,
        micro_batch=batches.micro_batch,
        micro_batches=batches.micro_batches("training.global_batch_size"),
        seq_len=training.number("seq_len", 2048),
        recompute=recompute,
        sharding=_sharding(parallel, dp, pp),
        precision=_precision(model, training),
    )
    require_experts(known.model, layout, "parallelism.expert_parallel_degree")
    return Foreign(
        framework="torchtitan",
        known=known,
        layout=layout,
        bounds=bounds,
        recompute_layers=counts,
        global_batch=batches.global_batch,
        warnings=_warnings(tree, parallel),
    )


def _replicas(parallel: Table, num_chips: int, per_replica: int) -> int:
    replicate = parallel.number("data_parallel_replicate_degree", 1)
    shard = parallel.number("data_parallel_shard_degree", -1)
    where = "parallelism.data_parallel_shard_degree"
    if shard < 0 or num_chips:
        dp = count_replicas(num_chips, per_replica, "parallelism")
        if dp % replicate or (shard > 0 and dp != replicate * shard):
            raise InputError(
                f"{num_chips} chips make {dp} replicas, not {replicate} x {shard if shard > 0 else 'n'}",
                where=where,
                hint=f"give --chips {per_replica * replicate * max(1, shard)}",
            )
        return dp
    return replicate * shard


def _bounds(parallel: Table, model: ModelSpec, stages: int) -> Bounds:
    schedule = parallel.text("pipeline_parallel_schedule", "1F1B").lower()
    sizes = _part_sizes(parallel, model) if stages > 1 else [model.num_layers]
    if not sizes:
        sizes = _even_sizes(parallel, model.num_layers, stages, 1 if schedule in _SINGLE else 2)
    if len(sizes) % stages:
        raise InputError(f"{len(sizes)} parts are not divisible by {stages} stages", where=_PARTS)
    require_layers(sizes, model.num_layers, _PARTS)
    bounds = looped_bounds(sizes, stages)
    if schedule not in _V_SHAPED or len(sizes) != 2 * stages:
        return bounds
    chunks = [each[turn] for turn in range(2) for each in bounds]
    return [[chunks[stage], chunks[2 * stages - 1 - stage]] for stage in range(stages)]


def _part_sizes(parallel: Table, model: ModelSpec) -> list[int]:
    """Raises InputError where the parts do not name each layer once, in order."""
    parts = parallel.values.get("module_fqns_per_model_part")
    if not parts:
        return []
    if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
        raise InputError("it is not a list of lists of names", where=_PARTS)
    layers = [[str(name) for name in part if str(name).startswith("layers.")] for part in parts]
    if [name for part in layers for name in part] != [f"layers.{n}" for n in range(model.num_layers)]:
        raise InputError(
            f"the parts do not name the layers 0 to {model.num_layers - 1} once, in order", where=_PARTS
        )
    return [len(part) for part in layers]


def _even_sizes(parallel: Table, num_layers: int, stages: int, depth: int) -> list[int]:
    """As torchtitan splits: embedding and head count as layers; the remainder goes to the first chunks."""
    first, last = (
        max(0, int(parallel.values.get(f"pipeline_parallel_{end}_stage_less_layers", 1)))
        for end in ("first", "last")
    )
    counted = num_layers + first + last
    if stages == 1:
        return [num_layers]
    per_chunk = parallel.values.get("pipeline_parallel_layers_per_stage")
    chunks = math.ceil(counted / max(1, int(per_chunk))) if per_chunk else stages * depth
    if chunks > counted:
        raise InputError(f"{chunks} chunks of {num_layers} layers", where="parallelism")
    size, more = divmod(counted, chunks)
    sizes = [size + (index < more) for index in range(chunks)]
    sizes[0] -= first
    sizes[-1] -= last
    return sizes


def _recompute(table: Table, bounds: Bounds) -> tuple[Recompute, list[int]]:
    sizes = [sum(end - first for first, end in chunks) for chunks in bounds]
    mode = table.text("mode", "selective")
    if mode == "full":
        return "full", sizes
    option = str(table.values.get("selective_ac_option", "2"))
    if mode == "selective" and option.isdecimal() and int(option):
        return "full", [size // int(option) for size in sizes]
    return ("none" if mode == "none" else "selective"), [0] * len(sizes)


def _sharding(parallel: Table, dp: int, pp: int) -> Sharding:
    """FSDP that keeps its gathered weights is ZeRO 2; by default it does so in a pipeline."""
    if parallel.number("data_parallel_replicate_degree", 1) == dp > 1:
        return 0
    policy = parallel.text("fsdp_reshard_after_forward", "default")
    keeps = policy == "never" or (policy == "default" and pp > 1)
    return 2 if keeps else 3


def _precision(model: Table, training: Table) -> Precision:
    if any(name in (FLOAT8, "float8") for name in model.values.get("converters", [])):
        return "fp8"
    return "fp32" if training.text("mixed_precision_param", "bfloat16") == "float32" else "bf16"


def _warnings(tree: dict[str, Any], parallel: Table) -> list[str]:
    found: list[str] = []
    schedule = parallel.text("pipeline_parallel_schedule", "1F1B")
    if schedule.lower() not in ("1f1b", "interleaved1f1b"):
        found.append(f"parallelism.pipeline_parallel_schedule: {schedule} is taken as (interleaved) 1F1B")
    if parallel.number("data_parallel_replicate_degree", 1) > 1 and parallel.number(
        "data_parallel_shard_degree", -1
    ) not in (1, -1):
        found.append("parallelism.data_parallel_replicate_degree: weights are taken as sharded over all")
    if parallel.values.get("enable_async_tensor_parallel"):
        found.append("parallelism.enable_async_tensor_parallel: not modelled")
    if Table(tree, "activation_checkpoint").values.get("mode") == "memory_budget":
        found.append("activation_checkpoint.mode: memory_budget is taken as selective")
    if Table(tree, "training").values.get("enable_cpu_offload"):
        found.append("training.enable_cpu_offload: not modelled")
    return found
