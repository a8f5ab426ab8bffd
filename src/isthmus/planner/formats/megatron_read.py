"""Megatron-LM arguments, from a launch script, an argument list or its YAML, as model and layout."""

from isthmus.errors import InputError
from isthmus.planner.formats.arguments import Arguments, read_arguments
from isthmus.planner.formats.foreign import (
    Batches,
    Bounds,
    Foreign,
    count_replicas,
    looped_bounds,
    require_experts,
    require_layers,
)
from isthmus.planner.formats.megatron import SHARDING, block_recompute
from isthmus.planner.formats.megatron_model import read_model
from isthmus.planner.formats.notation import LAYOUT, read_layout
from isthmus.planner.layout import Layout, Precision, Recompute, Sharding


def is_megatron(text: str) -> bool:
    return "num-layers" in text or "num_layers" in text or "--hidden-size" in text


def read_megatron(text: str, num_chips: int) -> Foreign:
    """`num_chips` 0: as the script's nnodes and nproc_per_node say. Raises InputError by option."""
    args = read_arguments(text)
    known, warnings = read_model(args)
    model = known.model
    tp, cp, pp = (
        args.number(f"--{name}-parallel-size", 1) for name in ("tensor-model", "context", "pipeline-model")
    )
    dp = count_replicas(num_chips or _world(args), tp * cp * pp, "--nnodes x --nproc-per-node")
    batches = Batches(
        replicas=dp,
        micro_batch=args.number("--micro-batch-size"),
        global_batch=args.number("--global-batch-size", args.number("--micro-batch-size") * dp),
    )
    bounds = _bounds(args, model.num_layers, pp)
    etp = args.number("--expert-tensor-parallel-size", tp)
    recompute, counts = _recompute(args, bounds)
    layout = Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        virtual=len(bounds[0]),
        dp=dp,
        ep=args.number("--expert-model-parallel-size", 1),
        etp=0 if etp == tp else etp,
        micro_batch=batches.micro_batch,
        micro_batches=batches.micro_batches("--global-batch-size"),
        seq_len=args.number("--seq-length"),
        recompute=recompute,
        sharding=_sharding(args),
        precision=_precision(args),
    )
    require_experts(model, layout, "--expert-model-parallel-size")
    if num_chips and (world := _world(args)) and world != num_chips:
        warnings.append(f"the script starts {world} ranks; {num_chips} were asked for")
    return Foreign(
        framework="megatron",
        known=known,
        layout=layout,
        bounds=bounds,
        recompute_layers=counts,
        global_batch=batches.global_batch,
        warnings=warnings,
    )


def _world(args: Arguments) -> int:
    """Ranks that the launcher starts; 0: it does not say, or by a variable that is set elsewhere."""
    nodes, per_node = (args.options.get(name, [""]) for name in ("--nnodes", "--nproc-per-node"))
    if not args.has("--nnodes"):
        nodes = ["1"]
    counts = [int(values[0]) for values in (nodes, per_node) if values and values[0].isdecimal()]
    return counts[0] * counts[1] if len(counts) == 2 else 0


def _bounds(args: Arguments, num_layers: int, stages: int) -> Bounds:
    """Raises InputError where the options contradict each other or the number of layers."""
    per_chunk, chunks = "--num-layers-per-virtual-pipeline-stage", "--num-virtual-stages-per-pipeline-rank"
    given = [name for name in (LAYOUT, per_chunk, chunks) if args.has(name)]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} contradict each other", where=given[1], hint="keep one")
    if given == [LAYOUT]:
        sizes, _ = read_layout(args.text(LAYOUT))
        if len(sizes) % stages:
            raise InputError(f"{len(sizes)} chunks are not divisible by {stages} stages", where=LAYOUT)
        require_layers(sizes, num_layers, LAYOUT)
        return looped_bounds(sizes, stages)
    stage_sizes = _stage_sizes(args, num_layers, stages)
    depth = args.number(chunks, 1)
    if args.has(per_chunk):
        depth = max(1, max(stage_sizes) // args.number(per_chunk))
    if args.has(per_chunk) and depth * args.number(per_chunk) != max(stage_sizes):
        raise InputError(
            f"{max(stage_sizes)} layers of a stage are not divisible into chunks of {args.number(per_chunk)}",
            where=per_chunk,
        )
    return _interleaved(args, stage_sizes, depth, chunks)


def _stage_sizes(args: Arguments, num_layers: int, stages: int) -> list[int]:
    """Layers of each stage, counting embedding and loss as layers where the options say so."""
    first, last = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
    counted = num_layers + sum(args.has(name) for name in _ACCOUNT)
    fixed = {0: first, stages - 1: last}
    fixed = {stage: args.number(name) for stage, name in fixed.items() if args.has(name)}
    free = stages - len(fixed)
    left = counted - sum(fixed.values())
    if left < 0 or (left % free if free else left):
        raise InputError(
            f"{left} layers are not divisible among {free} stages",
            where="--pipeline-model-parallel-size",
            hint=f"say by {LAYOUT} how they are split",
        )
    return [fixed.get(stage, left // max(1, free)) for stage in range(stages)]


_ACCOUNT = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")


def _interleaved(args: Arguments, stage_sizes: list[int], depth: int, where: str) -> Bounds:
    if any(size % depth for size in stage_sizes):
        raise InputError(f"stages of {stage_sizes} layers are not divisible by {depth}", where=where)
    sizes = [size // depth for _ in range(depth) for size in stage_sizes]
    sizes[0] -= args.has(_ACCOUNT[0])
    sizes[-1] -= args.has(_ACCOUNT[1])
    require_layers(sizes, sum(sizes), where)
    return looped_bounds(sizes, len(stage_sizes))


def _recompute(args: Arguments, bounds: Bounds) -> tuple[Recompute, list[int]]:
    """Also by the names of older releases."""
    none = [0] * len(bounds)
    granularity = args.text("--recompute-granularity", "")
    if granularity == "selective" or args.has("--recompute-activations"):
        return "selective", none
    old = args.has("--activations-checkpoint-method", "--checkpoint-activations")
    if granularity != "full" and not old:
        return "none", none
    every = [block_recompute(chunks, 10**9) for chunks in bounds]
    if args.text("--recompute-method", "uniform") != "block":
        return "full", every
    count = args.number("--recompute-num-layers")
    return "full", [block_recompute(chunks, count) for chunks in bounds]


def _sharding(args: Arguments) -> Sharding:
    if args.has("--use-torch-fsdp2"):
        return 3
    if args.has("--use-megatron-fsdp"):
        strategy = args.text("--data-parallel-sharding-strategy", SHARDING[3])
        stages: dict[str, Sharding] = {"no_shard": 0, "optim": 1, "optim_grads": 2}
        return stages.get(strategy, 3)
    return 1 if args.has("--use-distributed-optimizer") else 0


def _precision(args: Arguments) -> Precision:
    if args.has("--fp4-format"):
        return "fp4"
    if args.has("--fp8-format", "--fp8-hybrid", "--fp8-e4m3"):
        return "fp8"
    if args.has("--bf16"):
        return "bf16"
    return "fp16" if args.has("--fp16") else "fp32"
