from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.models.dispatch import dispatch
from isthmus.models.moe import MoE
from isthmus.models.router import Router, top_k
from isthmus.spec.model import ModelSpec


def router_of(hidden_size, num_experts, k, **changes) -> Router:
    return Router(ModelSpec(hidden_size=hidden_size, num_experts=num_experts, top_k=k, **changes))


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_logits_go_to_the_lower_expert(threads):
    torch.set_num_threads(threads)
    router = router_of(8, 6, 3)
    with torch.no_grad():
        router.weight.zero_()
    choice = router(torch.randn(5000, 8))
    assert (choice.expert_NK == torch.tensor([0, 1, 2])).all()
    torch.testing.assert_close(choice.weight_NK, torch.full((5000, 3), 1 / 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_exact_ties_among_the_best(threads):
    """Small integers multiply exactly, so that ties are exact in whatever order they are summed."""
    torch.set_num_threads(threads)
    draws = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (4000, 8), generator=draws).float()
    got = top_k(logits, 3)
    want = [sorted(range(8), key=lambda e, row=row: (-row[e], e))[:3] for row in logits.tolist()]
    assert got.tolist() == want


def test_weights_are_the_renormalised_softmax(draws):
    router = router_of(8, 6, 2)
    with torch.no_grad():
        router.weight.normal_(generator=draws)
    x = torch.randn(40, 8, generator=draws)
    choice = router(x)
    best, experts = (x @ router.weight.t()).softmax(-1).topk(2)
    assert torch.equal(experts, choice.expert_NK)
    torch.testing.assert_close(choice.weight_NK, best / best.sum(-1, keepdim=True))


def test_router_computes_in_fp32_for_bf16_tokens(draws):
    router = router_of(8, 6, 2)
    with torch.no_grad():
        router.weight.normal_(generator=draws)
    x = torch.randn(40, 8, generator=draws).bfloat16()
    assert router(x).weight_NK.dtype == torch.float32
    assert torch.equal(router(x).expert_NK, router(x.float()).expert_NK)


def test_saturated_router_does_not_divide_by_zero():
    router = router_of(2, 4, 2)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1e4, 0], [-1e4, 0], [-2e4, 0], [-3e4, 0]]))
    choice = router(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert choice.weight_NK.tolist() == [[1.0, 0.0]] * 2


def test_tiny_sigmoid_scores_sum_to_one_all_the_same():
    router = router_of(2, 4, 2, router_score="sigmoid")
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[-60.0, 0], [-61.0, 0], [-62.0, 0], [-63.0, 0]]))
    choice = router(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(choice.weight_NK.sum(-1), torch.ones(1))
    torch.testing.assert_close(router.probs(choice).sum(-1), torch.ones(1))


@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.sampled_from([1, 4, 32]), st.integers(0, 99)
)
@settings(max_examples=60)
def test_dispatch_gives_each_choice_a_row_of_its_expert(tokens, num_experts, k, multiple, seed):
    k = min(k, num_experts)
    draws = torch.Generator().manual_seed(seed)
    expert_NK = torch.rand(tokens, num_experts, generator=draws).argsort(-1)[:, :k]
    plan = dispatch(expert_NK, num_experts, multiple)
    assert plan.counts.tolist() == [int((expert_NK == e).sum()) for e in range(num_experts)]
    assert plan.row_NK.unique().numel() == tokens * k
    assert all(bound % multiple == 0 for bound in plan.bounds)
    for n in range(tokens):
        for choice in range(k):
            row, expert = int(plan.row_NK[n, choice]), int(expert_NK[n, choice])
            assert plan.bounds[expert] <= row < plan.bounds[expert + 1]
            assert int(plan.token_R[row]) == n


def moe_of(hidden_size, ffn_size, num_experts, k) -> MoE:
    return MoE(ModelSpec(hidden_size=hidden_size, ffn_size=ffn_size, num_experts=num_experts, top_k=k), 0)


def fill(layer, draws, scale=0.5):
    with torch.no_grad():
        for param in layer.parameters():
            param.normal_(0, scale, generator=draws)
    return layer


def test_gradient_of_the_hand_written_pass(draws):
    """Against finite differences, in fp64, with an expert that gets no token."""
    layer = fill(moe_of(4, 3, 3, 2), draws)
    with torch.no_grad():
        layer.router.weight[2] = 0
        layer.router.weight[:2] = layer.router.weight[:2].abs() + 1
    x = torch.rand(1, 5, 4, generator=draws, dtype=torch.float64) + 0.1
    # The router is fp32 by design, too coarse for finite differences: its choice is held fixed.
    choice = layer.router(x.flatten(0, 1))
    assert 2 not in choice.expert_NK
    fixed = replace(choice, weight_NK=choice.weight_NK.detach().double())
    layer.router.forward = lambda x: fixed
    params = dict(layer.experts.double().named_parameters(prefix="experts"))

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(params, values, strict=True)), (x,)).y

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *params.values()))


def test_padding_of_bf16_segments_leaves_no_trace(draws, monkeypatch):
    x = torch.randn(1, 21, 16, generator=draws).bfloat16()
    results = []
    for multiple in (1, 32):
        monkeypatch.setattr("isthmus.models.moe.BF16_ROWS", multiple)
        layer = fill(
            moe_of(16, 12, 4, 2),
            torch.Generator().manual_seed(1),
        )
        inputs = x.clone().requires_grad_()
        layer(inputs).y.float().square().sum().backward()
        results.append([inputs.grad, *(p.grad for p in layer.parameters())])
    for padded, plain in zip(*results, strict=True):
        assert (padded is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(padded, plain, rtol=2e-2, atol=2e-2 * float(plain.abs().max()))
