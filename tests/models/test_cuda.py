"""The model on a CUDA chip gives what it gives on the CPU. Skipped where there is none."""

import pytest
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.models.balance import Balance
from isthmus.models.generate import Sampling, generate
from isthmus.models.router import Router
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import TrainSpec
from isthmus.train.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA chip")

VARIANTS = {
    "moe": {},
    "dense": {"num_experts": 0},
    "one-expert": {"num_experts": 1, "top_k": 1},
    "granular-shared": {"num_experts": 12, "top_k": 5, "expert_ffn_size": 8, "shared_ffn_size": 8},
    "sigmoid-bias": {"router_bias": True, "router_score": "sigmoid", "gate_norm": 1.0},
}


def losses(model, device, dtype, capacity):
    draws = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 50, (4, 33), generator=draws)
    docs = (torch.arange(33) > 20).long().expand(4, 33).contiguous()
    model.compute_dtype = dtype
    model.to(device)
    coef = torch.full((len(model.spec.moe_layers),), 0.1, device=device)
    balance = Balance(BalanceSpec(capacity=capacity, z_loss=1e-3), coef)
    output = model(*(part.to(device) for part in (tokens[:, :-1], tokens[:, 1:], docs)), balance)
    output.loss.backward()
    grads = {n: p.grad.cpu().float() for n, p in model.named_parameters() if p.grad is not None}
    return output, grads


@pytest.mark.parametrize("capacity", [0.0, 0.8])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_losses_gradients_and_counts_are_those_of_the_cpu(build, changes, capacity):
    want, want_grads = losses(build(**changes), "cpu", torch.float32, capacity)
    got, got_grads = losses(build(**changes), "cuda", torch.float32, capacity)
    torch.testing.assert_close(got.loss.cpu(), want.loss, rtol=1e-4, atol=1e-5)
    assert got.expert_tokens.tolist() == want.expert_tokens.tolist()
    assert got_grads.keys() == want_grads.keys()
    for name, grad in want_grads.items():
        torch.testing.assert_close(got_grads[name], grad, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_bf16_stays_near_fp32(build, changes):
    """Gradients as a whole: a near tie may fall to another expert in bf16."""
    want, want_grads = losses(build(**changes), "cpu", torch.float32, 0.0)
    got, got_grads = losses(build(**changes), "cuda", torch.bfloat16, 0.0)
    torch.testing.assert_close(got.loss.cpu(), want.loss, rtol=3e-2, atol=0)
    names = want_grads.keys() & got_grads.keys()
    flat = [torch.cat([grads[name].flatten() for name in sorted(names)]) for grads in (got_grads, want_grads)]
    assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < 0.2


@pytest.mark.parametrize("num_experts", [4, 8, 16, 64, 128])
def test_equal_router_rows_tie_exactly(num_experts):
    """What granular upcycling rests on: the pieces of a copy have equal rows, and are chosen together."""
    draws = torch.Generator().manual_seed(num_experts)
    for hidden in (64, 100, 512, 2048, 4608):
        router = Router(ModelSpec(hidden_size=hidden, num_experts=num_experts, top_k=4))
        rows = torch.randn(num_experts // 4, hidden, generator=draws).repeat_interleave(4, 0)
        router.weight.data = rows.cuda()
        for tokens in (1, 7, 256, 4096):
            choice = router(torch.randn(tokens, hidden, generator=draws).cuda())
            first = choice.expert_NK[:, :1]
            assert bool((first % 4 == 0).all())
            assert bool((choice.expert_NK == first + torch.arange(4, device="cuda")).all())


def test_a_learner_learns_and_generates_there(build):
    model = build(torch.bfloat16).to("cuda")
    spec = TrainSpec(lr=1e-2, balance=BalanceSpec(adaptive=True, coef=0.05))
    learner = Learner(model, spec, SoloCollective(), 4)
    tokens = torch.arange(33, dtype=torch.int32).expand(8, 33).contiguous().numpy()
    results = [learner.step((tokens, tokens * 0), 1e-2) for _ in range(30)]
    assert results[-1].loss < 0.5 * results[0].loss
    assert results[-1].experts.coef_L.tolist() != results[0].experts.coef_L.tolist()
    said = list(generate(model, [0, 1, 2], 5, sampling=Sampling(temperature=0.0)))
    assert said == [3, 4, 5, 6, 7]
