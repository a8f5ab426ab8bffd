"""Biases and norms of queries and keys, and the stretched rotary embedding. Numbers: see tests/weights."""

import math

import pytest
import torch

from isthmus.models.init import init_weights
from isthmus.models.layers import rope_tables
from isthmus.models.transformer import Transformer
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec, RopeScaling

VARIANTS = {
    "bias": {"qkv_bias": True},
    "norm-by-head": {"qk_norm": "head"},
    "norm-of-all": {"qk_norm": "all", "qkv_bias": True},
    "linear": {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "llama3": {"rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=16)},
    "yarn": {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=64)},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_generating_with_a_cache_sees_the_same(build, draws, changes):
    model = build(num_experts=0, **changes)
    tokens = torch.randint(0, 50, (2, 9), generator=draws)
    with torch.no_grad():
        whole = model(tokens).logits
        cache = model.new_cache(2, 9)
        torch.testing.assert_close(model.decode(tokens[:, :6], cache), whole[:, 5], rtol=1e-4, atol=1e-4)
        for place in range(6, 9):
            step = model.decode(tokens[:, place : place + 1], cache)
            torch.testing.assert_close(step, whole[:, place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_bf16_stays_near_fp32_and_every_parameter_learns(build, draws, changes):
    tokens = torch.randint(0, 50, (4, 17), generator=draws)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(dtype, num_experts=0, **changes)
        output = model(tokens[:, :-1], tokens[:, 1:])
        output.loss.backward()
        losses.append(output.ce_loss)
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
        assert [name for name, grad in grads.items() if not grad.any() and not name.endswith("wk.bias")] == []
    torch.testing.assert_close(losses[0], losses[1], rtol=3e-2, atol=0)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_names_and_shapes_are_those_that_are_counted(changes):
    spec = ModelSpec(num_layers=2, **changes)
    with torch.device("meta"):
        built = [(name, tuple(each.shape)) for name, each in Transformer(spec).named_parameters()]
    assert built == list(param_shapes(spec))


def test_biases_start_at_0_and_norms_at_1():
    model = Transformer(ModelSpec(num_layers=1, qkv_bias=True, qk_norm="head"))
    init_weights(model, 1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert bool((parameter == (0.0 if name.endswith("bias") else 1.0)).all()), name


def _angles(scaling: RopeScaling) -> tuple[torch.Tensor, float]:
    """Angles after one position, longest wavelength last, and the factor on cos and sin."""
    spec = ModelSpec(head_dim=32, rope_theta=1e4, rope_scaling=scaling)
    cos, sin = rope_tables(torch.ones(1), spec, torch.float32)
    cos, sin = cos[0, 0, :16], sin[0, 0, 16:]
    return torch.atan2(sin, cos), float(torch.hypot(cos, sin)[0])


def test_short_wavelengths_are_kept_and_long_ones_stretched():
    plain, _ = _angles(RopeScaling())
    torch.testing.assert_close(_angles(RopeScaling(kind="linear", factor=4.0))[0], plain / 4)
    for kind in ("llama3", "yarn"):
        angles, factor = _angles(RopeScaling(kind=kind, factor=4.0, original_max_seq_len=1024))
        torch.testing.assert_close(angles[0], plain[0])
        torch.testing.assert_close(angles[-1], plain[-1] / 4)
        assert bool((angles <= plain * 1.0001).all())
        assert factor == pytest.approx(1.0 if kind == "llama3" else 0.1 * math.log(4.0) + 1.0)
    assert _angles(RopeScaling(kind="yarn", factor=4.0, attention_factor=1.5))[1] == pytest.approx(1.5)
