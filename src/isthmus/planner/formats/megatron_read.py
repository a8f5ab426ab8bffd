"""Megatron-LM arguments, from a launch script, an argument list or its YAML, as model and layout."""

import math

import yaml
from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.catalogue import build_catalogue
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
from isthmus.planner.formats.notation import FREQ, LAYOUT, read_freq, read_layout
from isthmus.planner.formats.shell import MAX_TEXT, read_words
from isthmus.planner.known_model import KnownModel, LatentAttention
from isthmus.planner.layout import Layout, Precision, Recompute, Sharding
from isthmus.spec.model import ModelSpec, RopeScaling

IGNORED = {
    "--window-size": "sliding-window attention",
    "--moe-expert-capacity-factor": "dropped tokens",
    "--moe-router-num-groups": "node-limited routing",
    "--moe-router-group-topk": "node-limited routing",
    "--moe-latent-size": "experts in a narrower space",
    "--hybrid-layer-pattern": "layers that are no attention (Mamba)",
    "--hybrid-override-pattern": "layers that are no attention (Mamba)",
    "--is-hybrid-model": "layers that are no attention (Mamba)",
    "--cpu-offloading": "activations in host memory",
    "--optimizer-cpu-offload": "optimizer states in host memory",
    "--tp-comm-overlap": "tensor communication under computation",
    "--num-distributed-optimizer-instances": "optimizer shards of part of the replicas",
    "--recompute-modules": "which modules are computed again",
    "--step-batch-size-schedule": "a growing batch",
    "--rampup-batch-size": "a growing batch",
    "--encoder-num-layers": "an encoder",
    "--moe-shared-expert-overlap": "shared experts under communication",
    "--moe-intermediate-size": "no option of Megatron-LM (ModelLink's width of an expert)",
    "--n-shared-experts": "no option of Megatron-LM (ModelLink's shared experts)",
    "--first-k-dense-replace": "no option of Megatron-LM (ModelLink's dense layers)",
}
"""Options that change what a step costs and that are not taken into account."""


class Arguments:
    """Options by name, the last one counting, as in argparse."""

    def __init__(self, words: list[str]) -> None:
        self.options: dict[str, list[str]] = {}
        name = ""
        for word in words:
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word.partition("=")
                name = name.replace("_", "-")
                self.options[name] = [value] if equals else []
            elif name:
                self.options[name].append(word)

    def has(self, *names: str) -> bool:
        return any(name in self.options for name in names)

    def text(self, name: str, default: str = "") -> str:
        """Raises InputError where the option is there, but not its value."""
        if name not in self.options:
            return default
        if not self.options[name] or not self.options[name][0]:
            raise InputError(
                "it has no value", where=name, hint="is a variable of the script set elsewhere? set it here"
            )
        return self.options[name][0]

    def number(self, name: str, default: int | None = None) -> int:
        """Raises InputError where it is needed but missing, or no whole number of at least 1."""
        if name not in self.options and default is not None:
            return default
        if name not in self.options:
            raise InputError("the arguments lack it", where=name, hint=f"add {name} N")
        value = self.real(name, 0.0)
        if value < 1 or value != int(value) or value > 1e9:
            raise InputError(f"'{self.text(name)}' is not a whole number of at least 1", where=name)
        return int(value)

    def real(self, name: str, default: float) -> float:
        try:
            value = float(self.text(name, str(default)))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"'{self.text(name)}' is not a number", where=name)
        return value


def is_megatron(text: str) -> bool:
    return "num-layers" in text or "num_layers" in text or "--hidden-size" in text


def read_megatron(text: str, num_chips: int) -> Foreign:
    """`num_chips` 0: as the script's nnodes and nproc_per_node say. Raises InputError by option."""
    args = Arguments(_mapping_words(text) or read_words(text))
    known, warnings = _known(args)
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


def _mapping_words(text: str) -> list[str]:
    """Of YAML, nested or not, with or without hyphens: its leaves as options. Empty: it is no mapping."""
    if len(text) > MAX_TEXT or ("*" in text and "&" in text):
        return []
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    words: list[str] = []
    ahead = [tree] if isinstance(tree, dict) else []
    while ahead:
        for key, value in ahead.pop().items():
            name = f"--{str(key).lstrip('-').replace('_', '-')}"
            if isinstance(value, dict):
                ahead.append(value)
            elif isinstance(value, list):
                words += [name, ",".join(map(str, value))]
            elif value is True:
                words.append(name)
            elif value is not None and value is not False:
                words += [name, str(value)]
    return words if "--num-layers" in words else []


def _world(args: Arguments) -> int:
    """Ranks that the launcher starts; 0: it does not say, or by a variable that is set elsewhere."""
    nodes, per_node = (args.options.get(name, [""]) for name in ("--nnodes", "--nproc-per-node"))
    if not args.has("--nnodes"):
        nodes = ["1"]
    counts = [int(values[0]) for values in (nodes, per_node) if values and values[0].isdecimal()]
    return counts[0] * counts[1] if len(counts) == 2 else 0


def _known(args: Arguments) -> tuple[KnownModel, list[str]]:
    """The model, and what could not be said of it."""
    warnings = [f"{name} is left out: {what}" for name, what in IGNORED.items() if args.has(name)]
    heads = args.number("--num-attention-heads")
    hidden = args.number("--hidden-size")
    gated = args.has("--swiglu", "--quick-geglu", "--gated-linear-unit")
    model = ModelSpec(
        num_layers=args.number("--num-layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=_kv_heads(args, heads),
        head_dim=args.number("--kv-channels", max(1, hidden // heads)),
        ffn_size=args.number("--ffn-hidden-size", _default_ffn(hidden, args.has("--swiglu"))),
        tied_head=not args.has("--untie-embeddings-and-output-weights"),
        qkv_bias=args.has("--add-qkv-bias"),
        qk_norm="head" if args.has("--qk-layernorm") else "none",
        rope_theta=max(1.0, args.real("--rotary-base", 10_000.0)),
        rope_scaling=_rope_scaling(args),
        norm_eps=args.real("--norm-epsilon", args.real("--layernorm-epsilon", 1e-5)),
        max_seq_len=args.number("--max-position-embeddings", args.number("--seq-length", 2048)),
    )
    model = _with_experts(args, model)
    vocab_size, doubt = _vocab_size(args, model)
    positions = args.text("--position-embedding-type", "learned_absolute")
    if args.has("--use-rotary-position-embeddings"):
        positions = "rope"
    if not gated:
        warnings.append("a feed-forward part of two matrices: see known.ffn_matrices")
    if args.text("--normalization", "LayerNorm") != "RMSNorm":
        warnings.append("--normalization LayerNorm: taken as RMSNorm")
    known = KnownModel(
        name="",
        model=replace(model, vocab_size=vocab_size),
        params=0,
        ffn_matrices=3 if gated else 2,
        positions={"learned_absolute": "learned", "none": "none", "alibi": "alibi"}.get(positions, "rope"),  # type: ignore[arg-type]
        linear_bias=not args.has("--disable-bias-linear"),
        latent=_latent(args),
        predict_layers=args.number("--mtp-num-layers", 0) if args.has("--mtp-num-layers") else 0,
    )
    return known, warnings + doubt


def _default_ffn(hidden: int, gated: bool) -> int:
    """As Megatron-LM: 4h, or 8/3 h to a multiple of 64 where gated."""
    return int(4 * hidden * 2 / 3 / 64) * 64 if gated else 4 * hidden


def _kv_heads(args: Arguments, heads: int) -> int:
    groups = args.number("--num-query-groups", heads)
    if not args.has("--group-query-attention"):
        return heads
    if heads % groups:
        raise InputError(f"{heads} heads are not divisible by {groups} groups", where="--num-query-groups")
    return groups


def _rope_scaling(args: Arguments) -> RopeScaling:
    if args.has("--use-rope-scaling"):
        return RopeScaling(kind="llama3", factor=args.real("--rope-scaling-factor", 8.0))
    factor = args.real("--rotary-seq-len-interpolation-factor", 1.0)
    return RopeScaling(kind="linear", factor=factor) if factor > 1 else RopeScaling()


def _with_experts(args: Arguments, model: ModelSpec) -> ModelSpec:
    if not args.has("--num-experts"):
        return model
    shared = "--moe-shared-expert-intermediate-size"
    sigmoid = args.text("--moe-router-score-function", "softmax") == "sigmoid"
    model = replace(
        model,
        num_experts=args.number("--num-experts"),
        top_k=args.number("--moe-router-topk", 2),
        expert_ffn_size=args.number("--moe-ffn-hidden-size", model.ffn_size),
        shared_ffn_size=args.number(shared) if args.has(shared) else 0,
        router_score="sigmoid" if sigmoid else "softmax",
        renormalize=sigmoid or not args.has("--moe-router-pre-softmax"),
        router_bias=args.has("--moe-router-enable-expert-bias"),
        route_scale=args.real("--moe-router-topk-scaling-factor", 1.0),
    )
    return read_freq(args.text(FREQ, "1"), model)


def _latent(args: Arguments) -> LatentAttention | None:
    if not args.has("--multi-latent-attention"):
        return None
    return LatentAttention(
        q_rank=args.number("--q-lora-rank", 0) if args.has("--q-lora-rank") else 0,
        kv_rank=args.number("--kv-lora-rank", 32),
        nope_dim=args.number("--qk-head-dim", 128),
        rope_dim=args.number("--qk-pos-emb-head-dim", 64),
        value_dim=args.number("--v-head-dim", 128),
    )


def _vocab_size(args: Arguments, model: ModelSpec) -> tuple[int, list[str]]:
    """The tokenizer says it in most scripts, so it may have to be found by the other dimensions."""
    for name in ("--padded-vocab-size", "--vocab-size"):
        if args.has(name):
            return args.number(name), []
    if args.text("--tokenizer-type", "") == "GPT2BPETokenizer" or args.has("--merge-file"):
        return 50_257, []
    sizes = [known.model.vocab_size for known in build_catalogue() if _dims(known.model) == _dims(model)]
    others = sorted(set(sizes[1:]) - set(sizes[:1]))
    taken = f"taken as {sizes[0]:,}, of a published model of these shapes" if sizes else "taken as 32,000"
    if others:
        taken += f" (others have {', '.join(f'{size:,}' for size in others)})"
    return (sizes or [32_000])[0], [f"--vocab-size is not given: {taken}"]


def _dims(model: ModelSpec) -> tuple[int, ...]:
    attention = (model.num_heads, model.num_kv_heads, model.qkv_bias)
    return (model.num_layers, model.hidden_size, *attention, model.ffn_size, model.num_experts)


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
