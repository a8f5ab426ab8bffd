"""The model that Megatron-LM arguments describe."""

from msgspec.structs import replace

from isthmus.errors import InputError
from isthmus.planner.formats.arguments import Arguments
from isthmus.planner.formats.notation import FREQ, read_freq
from isthmus.planner.models.catalogue import known_models
from isthmus.planner.models.known import KnownModel, LatentAttention
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


def read_model(args: Arguments) -> tuple[KnownModel, list[str]]:
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
    sizes = [known.model.vocab_size for known in known_models() if _dims(known.model) == _dims(model)]
    others = sorted(set(sizes[1:]) - set(sizes[:1]))
    taken = f"taken as {sizes[0]:,}, of a published model of these shapes" if sizes else "taken as 32,000"
    if others:
        taken += f" (others have {', '.join(f'{size:,}' for size in others)})"
    return (sizes or [32_000])[0], [f"--vocab-size is not given: {taken}"]


def _dims(model: ModelSpec) -> tuple[int, ...]:
    attention = (model.num_heads, model.num_kv_heads, model.qkv_bias)
    return (model.num_layers, model.hidden_size, *attention, model.ffn_size, model.num_experts)
