"""How the catalogue of published models is written down: rows of dimensions, family by family."""

from msgspec.structs import replace

from isthmus.planner.models.known import KnownModel
from isthmus.spec.model import ModelSpec

Dims = tuple[int, ...]
"""(layers, hidden, heads, key-value heads, ffn, vocabulary[, head_dim])"""

LITGPT = "Lightning-AI/litgpt litgpt/config.py"
MODELLINK = "zzhx1/Hetaceso-ModelLink examples"
NEMO = "NVIDIA/NeMo nemo/collections/llm/gpt/model"
MODELOPT = "NVIDIA/Megatron-LM examples/post_training/modelopt/conf"
FOUNDRY = "mosaicml/llm-foundry scripts/train/yamls/pretrain"

LLAMA = ModelSpec(tied_head=False, max_seq_len=4096)
LLAMA3 = replace(LLAMA, rope_theta=500_000.0, max_seq_len=8192)
QWEN = replace(LLAMA, qkv_bias=True, rope_theta=1_000_000.0, norm_eps=1e-6, max_seq_len=32_768)
QWEN3 = replace(QWEN, qkv_bias=False, qk_norm="head", max_seq_len=40_960)


def family(
    base: ModelSpec, source: str, rows: list[tuple[str, float, Dims]], like: KnownModel | None = None
) -> list[KnownModel]:
    """One model a row of (name, 10^9 parameters, dimensions); all else as in `base` and `like`."""
    known = like or KnownModel(name="", model=base, params=0)
    return [
        replace(known, name=name, params=billions * 1e9, source=source, model=_shaped(base, dims))
        for name, billions, dims in rows
    ]


def _shaped(base: ModelSpec, dims: Dims) -> ModelSpec:
    layers, hidden, heads, kv_heads, ffn, vocab, *head_dim = dims
    return replace(
        base,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim[0] if head_dim else hidden // heads,
        ffn_size=ffn,
        vocab_size=vocab,
    )


def aliased(models: list[KnownModel], aliases: dict[str, list[str]]) -> list[KnownModel]:
    return [replace(each, aliases=aliases.get(each.name, each.aliases)) for each in models]
