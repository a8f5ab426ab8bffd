import math

import pytest
import torch
from torch import nn

from isthmus.spec.run import TrainSpec
from isthmus.train import optimizer as optimizers
from isthmus.train.optimizer import AdamW, clip_gradients, make_optimizer

BETAS = (0.9, 0.95)


def make_named(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed": (7, 4), "norm": (4,), "expert": (4, 6)}
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in shapes.items()]


def set_gradients(named: list[tuple[str, nn.Parameter]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def reference_adamw(named, steps: int, lr: float, decay: float) -> list[torch.Tensor]:
    """Loshchilov & Hutter's algorithm 2 in float64."""
    values = [p.detach().double() for _, p in named]
    first, second = [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values]
    for step in range(1, steps + 1):
        set_gradients(named, step)
        for i, (_, parameter) in enumerate(named):
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            first[i] = BETAS[0] * first[i] + (1 - BETAS[0]) * gradient
            second[i] = BETAS[1] * second[i] + (1 - BETAS[1]) * gradient**2
            mean = first[i] / (1 - BETAS[0] ** step)
            spread = (second[i] / (1 - BETAS[1] ** step)).sqrt()
            shrink = lr * decay if parameter.dim() >= 2 else 0.0
            values[i] = values[i] * (1 - shrink) - lr * mean / (spread + 1e-8)
    return values


@pytest.mark.parametrize("devices", [("cpu",), ()], ids=["fused", "by-hand"])
def test_adamw_is_the_published_update(devices, monkeypatch):
    monkeypatch.setattr(optimizers, "_FUSED_DEVICES", devices)
    named = make_named()
    expected = reference_adamw(named, 5, 0.01, 0.1)
    adamw = AdamW(named, BETAS, 0.1)
    for step in range(1, 6):
        set_gradients(named, step)
        adamw.step(0.01)
    for (_, parameter), value in zip(named, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, atol=1e-6, rtol=1e-5)


def test_moments_restore_bit_for_bit():
    named, other = make_named(), make_named()
    first = AdamW(named, BETAS, 0.1)
    for step in range(3):
        set_gradients(named, step)
        first.step(0.01)
    second = AdamW(other, BETAS, 0.1)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for (_, a), (_, b) in zip(named, other, strict=True):
        b.data.copy_(a.data)
    for pair, chosen in ((named, first), (other, second)):
        set_gradients(pair, 9)
        chosen.step(0.01)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named, other, strict=True))


def test_reset_forgets_everything():
    named = make_named()
    adamw = AdamW(named, BETAS, 0.0)
    set_gradients(named, 1)
    adamw.step(0.01)
    adamw.reset()
    assert all(not tensor.any() for tensor in adamw.state().values())


def test_an_expert_without_tokens_gets_a_zero_gradient():
    named = make_named()
    adamw = AdamW(named, BETAS, 0.0)
    before = named[2][1].detach().clone()
    for _, parameter in named[:2]:
        parameter.grad = torch.ones_like(parameter)
    adamw.step(0.1)
    assert torch.equal(named[2][1].detach(), before)
    assert not torch.equal(named[0][1].detach(), make_named()[0][1].detach())


def test_sgd_is_torchs():
    named = make_named()
    sgd = make_optimizer(TrainSpec(optimizer="sgd", weight_decay=0.1), named)
    set_gradients(named, 1)
    expected = [
        p.detach() - 0.5 * (p.grad + (0.1 * p.detach() if p.dim() >= 2 else 0.0))
        for _, p in named
        if p.grad is not None
    ]
    sgd.step(0.5)
    for (_, parameter), value in zip(named, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    assert sgd.state() == {}


def test_clipping_scales_only_what_is_too_long():
    named = make_named()
    parameters = [p for _, p in named]
    set_gradients(named, 1)
    norm = clip_gradients(parameters, 0.0)
    assert norm == pytest.approx(
        math.sqrt(sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None))
    )
    assert clip_gradients(parameters, 1.0) == pytest.approx(norm)
    assert clip_gradients(parameters, 1.0) == pytest.approx(1.0, rel=1e-5)


def test_a_norm_that_is_not_finite_is_reported():
    named = make_named()
    set_gradients(named, 1)
    named[0][1].grad = torch.full((7, 4), math.nan)
    assert math.isnan(clip_gradients([p for _, p in named], 1.0))
