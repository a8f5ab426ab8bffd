"""A row's model as the cost functions take it, and what had to be assumed."""

from typing import NamedTuple

from msgspec.structs import replace

from isthmus.planner.models.catalogue import find_model
from isthmus.planner.models.known import KnownModel
from isthmus.planner.published.hybrid import as_transformer, find_hybrid
from isthmus.planner.published.notes import stated
from isthmus.planner.published.rows import Row
from isthmus.planner.published.usual import USUAL, usual_name
from isthmus.spec.count import count_params
from isthmus.spec.model import ModelSpec


class Shape(NamedTuple):
    model: ModelSpec
    """With as many parameters and FLOPs as the row's: a feed-forward part of two matrices as a SwiGLU of 2/3
    of its width, latent attention as grouped heads of as many parameters."""
    seq_len: int
    core: float
    """FLOPs of the attention core relative to those of `model`'s heads over all of the sequence."""
    assumed: list[str]
    kind: tuple[str, ...] = ()
    """('hybrid',) for state-space layers that `model` stands for."""


MOST_LAYERS = 10_000


def shape_of(row: Row) -> Shape | str:
    """Or why there is none."""
    if row.layers > MOST_LAYERS:
        return f"{row.layers} layers are more than {MOST_LAYERS}"
    known = find_model(row.model)
    hybrid = find_hybrid(row.model)
    if hybrid and not row.has_dimensions:
        seq_len = row.seq or 8192
        model, core = as_transformer(hybrid, seq_len)
        return Shape(model, seq_len, core, ["a transformer of equal cost"], ("hybrid",))
    if known is None and not row.has_dimensions:
        return f"no dimensions, and '{row.model}' is not a model whose dimensions are known"
    assumed: list[str] = []
    if row.has_dimensions and not _contradicts(row, known):
        model, matrices = _stated(row, known, assumed)
    else:
        assert known is not None
        model, matrices = known.model, known.ffn_matrices
        assumed.append(f"dimensions of {known.name} ({known.source})")
    seq_len = row.seq or _usual_seq_len(row, model)
    if not row.seq:
        assumed.append(f"sequences of {seq_len}")
    if matrices == 2:
        model = replace(model, ffn_size=round(model.ffn_size * 2 / 3))
        if model.expert_ffn_size:
            model = replace(model, expert_ffn_size=round(model.expert_ffn_size * 2 / 3))
    return _with_extras(model, known, seq_len, assumed)


def _usual_seq_len(row: Row, model: ModelSpec) -> int:
    said = stated(r"\bMPE", row.notes)
    if said:
        return said
    script = usual_name(row)
    return USUAL[script].seq_len if script else min(model.max_seq_len, 8192)


def _contradicts(row: Row, known: KnownModel | None) -> bool:
    """The row's dimensions give other than its number of parameters, and the known model's give that."""
    if known is None or not row.params_b or abs(known.params / 1e9 / row.params_b - 1) > 0.03:
        return False
    model, matrices = _stated(row, known, [])
    ratio = 1 if matrices == 3 else 2 / 3
    count = count_params(replace(model, ffn_size=round(model.ffn_size * ratio))) / 1e9
    own = count_params(replace(known.model, ffn_size=round(known.model.ffn_size * ratio))) / 1e9
    return abs(count / own - 1) > 0.08


def _stated(row: Row, known: KnownModel | None, assumed: list[str]) -> tuple[ModelSpec, int]:
    """The row's dimensions over those that are known by its name."""
    base = known.model if known else ModelSpec(tied_head=False, max_seq_len=max(2048, row.seq))
    heads = row.heads or (base.num_heads if known else max(1, row.hidden // 128))
    kv_heads = row.kv_heads or (base.num_kv_heads if known else heads)
    ffn = row.ffn or (base.ffn_size if known else 4 * row.hidden)
    for column, value in (("heads", heads), ("kv_heads", kv_heads), ("ffn", ffn)):
        if not getattr(row, column):
            assumed.append(f"{column} {value}")
    same_heads = known is not None and (heads, row.hidden) == (base.num_heads, base.hidden_size)
    model = replace(
        base,
        num_layers=row.layers,
        hidden_size=row.hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=base.head_dim if same_heads else max(2, row.hidden // heads),
        ffn_size=ffn,
        vocab_size=row.vocab or (base.vocab_size if known else 50_304),
        dense_layers=[layer for layer in base.dense_layers if layer < row.layers],
    )
    if row.experts:
        width = base.expert_ffn_size or ffn
        model = replace(model, num_experts=row.experts, top_k=row.topk or 2, expert_ffn_size=width)
    matrices = known.ffn_matrices if known else (2 if ffn >= 3.9 * row.hidden else 3)
    if not known:
        assumed.append(f"{matrices} matrices in a feed-forward part")
    return model, matrices


def _with_extras(model: ModelSpec, known: KnownModel | None, seq_len: int, assumed: list[str]) -> Shape:
    """Latent attention, sliding windows and layers of multi-token prediction."""
    if known is None:
        return Shape(model, seq_len, 1.0, assumed)
    core = 1.0
    if known.latent:
        latent = known.latent
        width = (latent.nope_dim + latent.rope_dim + latent.value_dim) / 2
        params = latent.params(model.hidden_size, model.num_heads)
        head_dim = round(params / (2 * model.hidden_size * (model.num_heads + 1)))
        model = replace(model, num_kv_heads=1, head_dim=head_dim)
        core = width / head_dim
    if known.window and known.window < seq_len:
        part = 2 * known.window / seq_len
        core *= ((known.window_every - 1) + part) / known.window_every
    if known.predict_layers:
        model = replace(model, num_layers=model.num_layers + known.predict_layers)
        assumed.append(f"{known.predict_layers} layer(s) of multi-token prediction")
    return Shape(model, seq_len, core, assumed)
