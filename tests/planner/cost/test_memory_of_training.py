"""The formulas against what autograd really keeps, in our own model."""

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.planner.cost.convention import ISTHMUS
from isthmus.planner.cost.memory import kept_bytes
from isthmus.planner.cost.shapes import shapes_of
from isthmus.planner.layout import Layout
from isthmus.spec.model import ModelSpec

MODEL = ModelSpec(
    vocab_size=512, hidden_size=128, num_layers=4, num_heads=8, num_kv_heads=4, head_dim=16, ffn_size=352
)
EXPERTS = replace(MODEL, num_experts=4, top_k=2, expert_ffn_size=176, shared_ffn_size=96)


def kept_by_autograd(spec: ModelSpec, dtype: torch.dtype, micro_batch: int, seq_len: int) -> int:
    """Bytes of the tensors that backward needs, parameters and their casts left out."""
    model = Transformer(spec, dtype)
    init_weights(model, 0)
    sizes = {parameter.shape for parameter in model.parameters()}
    sizes |= {shape[::-1] for shape in sizes if len(shape) == 2}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(spec.vocab_size, (micro_batch, seq_len + 1), generator=generator)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(tokens[:, :-1], tokens[:, 1:])
    assert output.loss.requires_grad
    return sum(each.untyped_storage().nbytes() for each in kept.values() if each.shape not in sizes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "spec",
    [MODEL, replace(MODEL, num_layers=2, qk_norm="head", tied_head=False), EXPERTS],
    ids=["dense", "qk_norm", "experts"],
)
def test_layers_keep_what_autograd_keeps(spec: ModelSpec, precision: str):
    """In bf16 over more tokens than the whole-score attention of short sequences takes."""
    dtype, seq_len = (torch.float32, 256) if precision == "fp32" else (torch.bfloat16, 640)
    layout = Layout(micro_batch=3, seq_len=seq_len, precision=precision)  # pyright: ignore
    shapes = shapes_of(spec)
    kinds = shapes.kinds.tolist()
    predicted = sum(kept_bytes(shapes, layout, ISTHMUS, kind).activations for kind in kinds)
    # The gradient that the loss makes of its matrix has a parameter's shape; a second comes in backward.
    predicted -= 2 * 4 * spec.vocab_size * spec.hidden_size
    assert predicted == pytest.approx(kept_by_autograd(spec, dtype, 3, seq_len), rel=0.03)
