import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from isthmus.models import balance as balance_module
from isthmus.models.balance import (
    Balance,
    gate_loss,
    keep_within_capacity,
    mean_probability_loss,
    switch_loss,
    z_loss,
)
from isthmus.models.moe import MoE
from isthmus.models.router import Choice
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec


def test_mean_probability_loss():
    assert float(mean_probability_loss(torch.full((10, 4), 0.25))) == 0.0
    # All on one of n experts: (1 - 1/n)^2 + (n - 1)/n^2 = 1 - 1/n.
    assert float(mean_probability_loss(torch.tensor([[1.0, 0, 0, 0]] * 3))) == pytest.approx(0.75)


def test_switch_loss_is_one_when_even_and_n_when_all_go_to_one():
    assert float(switch_loss(torch.full((10, 4), 0.25), torch.full((4,), 0.25))) == pytest.approx(1.0)
    one = torch.tensor([1.0, 0, 0, 0])
    assert float(switch_loss(one.expand(3, 4), one)) == pytest.approx(4.0)


def test_z_loss():
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    want = (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2
    assert float(z_loss(logits)) == pytest.approx(want)


def test_losses_are_weighted_by_layer_and_add_up():
    probs, logits = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.9, 0.05]])
    load, coef = torch.tensor([1, 0]), torch.tensor([0.5, 0.25])
    plain = Balance(BalanceSpec(z_loss=0.1), coef)
    want = 0.25 * mean_probability_loss(probs) + 0.1 * z_loss(logits)
    torch.testing.assert_close(gate_loss(plain, 1, probs, logits, load), want)
    own = Balance(BalanceSpec(loss="switch"), coef)
    torch.testing.assert_close(
        gate_loss(own, 0, probs, logits, load), 0.5 * switch_loss(probs, torch.tensor([1.0, 0.0]))
    )
    share = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    shared = Balance(BalanceSpec(loss="switch", scope="global"), coef, share)
    torch.testing.assert_close(gate_loss(shared, 1, probs, logits, load), 0.25 * switch_loss(probs, share[1]))
    assert float(gate_loss(Balance(BalanceSpec(loss="none"), coef), 0, probs, logits, load)) == 0.0


def choice_of(expert_NK, score_NK, num_experts) -> Choice:
    scores_NE = torch.zeros(len(expert_NK), num_experts).scatter_(1, expert_NK, score_NK)
    return Choice(expert_NK, score_NK, scores_NE, scores_NE)


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from(["score", "position"]),
    st.sampled_from([0.1, 0.5, 1.0, 1.3]),
    st.integers(0, 99),
)
@settings(max_examples=80)
def test_an_expert_keeps_the_best_or_the_first_up_to_its_capacity(tokens, experts, k, drop, factor, seed):
    draws, k = torch.Generator().manual_seed(seed), min(k, experts)
    expert_NK = torch.rand(tokens, experts, generator=draws).argsort(-1)[:, :k]
    score_NK = torch.randint(0, 4, (tokens, k), generator=draws) / 4  # with ties
    spec = BalanceSpec(capacity=factor, drop=drop)
    kept = keep_within_capacity(choice_of(expert_NK, score_NK, experts), spec)
    capacity = math.ceil(factor * tokens * k / experts)
    for expert in range(experts):
        mine = [(n, j) for n in range(tokens) for j in range(k) if int(expert_NK[n, j]) == expert]
        if drop == "score":
            mine.sort(key=lambda place: -float(score_NK[place]))
        assert [bool(kept[place]) for place in mine] == [i < capacity for i in range(len(mine))]


def build(draws, **changes) -> MoE:
    spec = ModelSpec(hidden_size=12, ffn_size=10, num_experts=4, top_k=2)
    layer = MoE(spec, 0)
    with torch.no_grad():
        for param in layer.parameters():
            param.normal_(0, 0.5, generator=draws)
    return layer


@pytest.mark.parametrize("drop", ["score", "position"])
def test_a_dropped_choice_adds_nothing_to_output_and_gradients(draws, drop):
    layer, x = build(draws), torch.randn(1, 30, 12, generator=draws, requires_grad=True)
    balance = Balance(BalanceSpec(capacity=0.6, drop=drop, loss="none"), torch.zeros(1))
    output = layer(x, balance)
    choice = layer.router(x.detach()[0])
    kept = keep_within_capacity(choice, balance.spec)
    assert 0 < int((~kept).sum()) == int(output.routing.dropped.sum())
    assert int(output.expert_tokens.sum()) == int(kept.sum())
    assert int(output.routing.load.sum()) == 60
    output.y.square().sum().backward()
    got = {name: p.grad for name, p in layer.named_parameters()} | {"x": x.grad}

    for param in layer.parameters():
        param.grad = None
    y = torch.zeros(30, 12)
    again = x.detach()[0].requires_grad_()
    weights = layer.router(again).weight_NK
    for n in range(30):
        for j in range(2):
            if kept[n, j]:
                expert = layer.experts[int(choice.expert_NK[n, j])]
                gate, up = (again[n] @ expert.gate_up).chunk(2)
                y[n] += weights[n, j] * ((torch.nn.functional.silu(gate) * up) @ expert.down)
    torch.testing.assert_close(output.y[0], y)
    y.square().sum().backward()
    torch.testing.assert_close(got.pop("x")[0], again.grad, rtol=1e-4, atol=1e-5)
    for name, param in layer.named_parameters():
        torch.testing.assert_close(got[name], param.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_drops_nothing_and_training_without_capacity_neither(draws):
    layer, x = build(draws), torch.randn(1, 30, 12, generator=draws)
    whole = layer(x)
    assert whole.routing is None
    assert whole.loss is None
    watched = layer(x, Balance(BalanceSpec(nominal_capacity=0.5), torch.zeros(1)))
    assert torch.equal(watched.y, whole.y)
    assert int(watched.expert_tokens.sum()) == 60
    assert int(watched.routing.dropped.sum()) == int((watched.routing.load - 8).clamp(min=0).sum())


def test_the_entropy_of_an_even_gate_is_log_n(draws):
    layer, x = build(draws), torch.randn(1, 30, 12, generator=draws)
    with torch.no_grad():
        layer.router.weight.zero_()
    routing = layer(x, Balance(BalanceSpec(), torch.zeros(1))).routing
    assert float(routing.entropy) / 30 == pytest.approx(math.log(4), rel=1e-5)
    assert routing.load.tolist() == [30, 30, 0, 0]
    assert routing.dropped.tolist() == [30 - 19, 30 - 19, 0, 0]


def test_recompute_counts_once(draws, monkeypatch):
    """The second forward of a checkpointed layer leaves no trace in what is counted."""
    layer, x = build(draws), torch.randn(1, 30, 12, generator=draws, requires_grad=True)
    seen = []
    observe = balance_module.observe
    monkeypatch.setattr("isthmus.models.moe.observe", lambda *a: seen.append(observe(*a)) or seen[-1])
    balance = Balance(BalanceSpec(capacity=0.6), torch.ones(1))
    plain = layer(x, balance)
    (plain.y.sum() + plain.loss).backward()
    grad, x.grad = x.grad, None
    again = checkpoint(layer, x, balance, use_reentrant=False)
    (again.y.sum() + again.loss).backward()
    assert len(seen) == 3
    assert again.routing.load.tolist() == plain.routing.load.tolist()
    assert again.routing.dropped.tolist() == plain.routing.dropped.tolist()
    torch.testing.assert_close(x.grad, grad)
