"""Which tensors of a Hugging Face model hold which of ours.

A link says that the rows of some of their tensors, one below the other, are one of ours, or its transpose.
Theirs are [out, in]; ours too, but an expert's are [in, out]. Gate comes before up in both.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Literal

from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec

Naming = Literal["mixtral", "qwen"]
"""mixtral: block_sparse_moe.experts.E.w1, w3, w2; qwen: mlp.experts.E.gate_proj, up_proj, down_proj."""

_ATTENTION = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
}
_TOP = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
HEAD, EMBEDDING = _TOP["head.weight"], _TOP["embed.weight"]


@dataclass(frozen=True)
class Part:
    """Rows of one of their tensors."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    rows: int
    start: int = 0
    """The first of the rows, where the tensor is seen as a matrix (see `weights.source`)."""


@dataclass(frozen=True)
class Link:
    ours: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    transposed: bool = False


def links(spec: ModelSpec, naming: Naming, theirs: Container[str] = ()) -> Iterator[Link]:
    """One link for each of our tensors, in our order.

    Args:
        theirs: names of a checkpoint's tensors: one that holds a layer's experts as one tensor, as
            transformers has them in memory, is met as such.
    """
    for ours, shape in param_shapes(spec):
        if ours in _TOP:
            yield _whole(ours, shape, _TOP[ours])
            continue
        _, layer, name = ours.split(".", 2)
        place = f"model.layers.{layer}"
        if name.startswith("moe.experts."):
            fused = f"{place}.mlp.experts.gate_up_proj" in theirs
            yield (_fused if fused else _expert)(ours, shape, place, spec, naming)
        elif name == "moe.router.weight":
            fused = f"{place}.mlp.experts.gate_up_proj" in theirs
            block = "block_sparse_moe" if naming == "mixtral" and not fused else "mlp"
            yield _whole(ours, shape, f"{place}.{block}.gate.weight")
        elif name == "ffn.gate_up.weight":
            half = (shape[0] // 2, shape[1])
            names = (f"{place}.mlp.gate_proj.weight", f"{place}.mlp.up_proj.weight")
            yield Link(ours, shape, tuple(Part(each, half, half[0]) for each in names))
        elif name == "ffn.down.weight":
            yield _whole(ours, shape, f"{place}.mlp.down_proj.weight")
        else:
            yield _whole(ours, shape, f"{place}.{_LAYER.get(name) or _attention(name)}")


def _attention(name: str) -> str:
    """attn.wq.bias -> self_attn.q_proj.bias."""
    _, matrix, kind = name.split(".")
    return f"self_attn.{_ATTENTION[matrix]}.{kind}"


def _whole(ours: str, shape: tuple[int, ...], theirs: str) -> Link:
    return Link(ours, shape, (Part(theirs, shape, shape[0] if len(shape) > 1 else 1),))


def _expert(ours: str, shape: tuple[int, ...], place: str, spec: ModelSpec, naming: Naming) -> Link:
    expert, matrix = ours.split(".")[-2:]
    block = "block_sparse_moe" if naming == "mixtral" else "mlp"
    gate, up, down = ("w1", "w3", "w2") if naming == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    names = (gate, up) if matrix == "gate_up" else (down,)
    theirs = (shape[1] // len(names), shape[0])
    parts = [Part(f"{place}.{block}.experts.{expert}.{name}.weight", theirs, theirs[0]) for name in names]
    return Link(ours, shape, tuple(parts), transposed=True)


def _fused(ours: str, shape: tuple[int, ...], place: str, spec: ModelSpec, naming: Naming) -> Link:
    expert, matrix = ours.split(".")[-2:]
    whole = (spec.num_experts, shape[1], shape[0])
    part = Part(f"{place}.mlp.experts.{matrix}_proj", whole, shape[1], int(expert) * shape[1])
    return Link(ours, shape, (part,), transposed=True)
