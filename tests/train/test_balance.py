import msgspec
import numpy as np
import pytest
import torch

from isthmus.comm.collective import SoloCollective
from isthmus.comm.local import run_ranks
from isthmus.journal import events
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import TrainSpec
from isthmus.train.balance import Balancer
from isthmus.train.expert_watch import EVERY_S, ExpertWatch
from isthmus.train.learner import Learner

SPEC = ModelSpec(
    vocab_size=64, hidden_size=16, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8, ffn_size=24,
    num_experts=4, top_k=2, first_moe_layer=1,
)  # fmt: skip


def build(**changes) -> Transformer:
    model = Transformer(msgspec.structs.replace(SPEC, **changes))
    init_weights(model, 1)
    return model


def rows(seed=0, count=8) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.integers(0, 64, (count, 17), dtype=np.int32), np.zeros((count, 17), dtype=np.int32)


def train_spec(**balance) -> TrainSpec:
    return TrainSpec(lr=1e-2, balance=BalanceSpec(**balance))


def learn(model, group, spec, micro_batch=2, steps=4):
    learner = Learner(model, spec, group, micro_batch)
    results = []
    for step in range(steps):
        tokens, docs = rows(step)
        share = slice(group.rank * 8 // group.world_size, (group.rank + 1) * 8 // group.world_size)
        results.append(learner.step((tokens[share], docs[share]), 1e-2))
    return learner, results


def oracle(drop_rates, start, xi, alpha_max, beta):
    """Skywork-MoE, arXiv 2406.06563, eq. 7-9, for each layer and iteration."""
    alphas = [np.full(len(drop_rates[0]), start)]
    for d in drop_rates:
        alpha_hat = np.minimum(xi * d, alpha_max)
        alphas.append(beta * alphas[-1] + (1 - beta) * alpha_hat)
    return np.array(alphas)


@pytest.mark.parametrize("capacity", [0.0, 0.8, 1.0])
def test_the_coefficient_follows_the_drop_rate_as_the_paper_says(capacity):
    spec = train_spec(
        adaptive=True, coef=0.02, adaptive_gain=0.2, adaptive_max=0.01, adaptive_decay=0.7,
        capacity=capacity, nominal_capacity=0.9,
    )  # fmt: skip
    _, results = learn(build(), SoloCollective(), spec, steps=8)
    rates = [
        (each.experts.dropped_LE.sum(-1) / each.experts.load_LE.sum(-1)).numpy().astype(np.float64)
        for each in results
    ]
    assert all((rate > 0).any() for rate in rates)
    for each in results:
        dropped = each.experts.dropped_LE.sum() if capacity else 0
        assert sum(each.expert_tokens) == each.experts.load_LE.sum() - dropped
    got = np.array([each.experts.coef_L.tolist() for each in results])
    np.testing.assert_allclose(got, oracle(rates, 0.02, 0.2, 0.01, 0.7)[:8], rtol=1e-5)
    assert not np.allclose(got[-1], got[0])


def test_a_fixed_coefficient_stays():
    _, results = learn(build(), SoloCollective(), train_spec(coef=0.03))
    assert {value for each in results for value in each.experts.coef_L.tolist()} == {np.float32(0.03)}


def test_the_bias_moves_against_the_load_and_has_no_gradient():
    model = build(router_bias=True, router_score="sigmoid")
    learner, results = learn(model, SoloCollective(), train_spec(loss="none", bias_rate=0.01), steps=3)
    want = torch.zeros(2, 4)
    for each in results:
        load = each.experts.load_LE
        want += 0.01 * torch.sign(load.mean(-1, keepdim=True) - load)
    got = torch.stack([model.layers[layer].moe.router.bias for layer in (1, 2)])
    torch.testing.assert_close(got.detach(), want)
    assert got.abs().sum() > 0
    assert not any(each.experts.coef_L.any() for each in results)
    assert not any("router.bias" in name for name in learner.optimizer.state())
    assert "layers.1.moe.router.bias" in learner.parameters()


def two_ranks(spec: TrainSpec, **changes):
    def run(group):
        learner, results = learn(build(**changes), group, spec)
        stats = results[-1].experts
        return {
            "load": stats.load_LE.tolist(),
            "coef": stats.coef_L.tolist(),
            "loss": results[-1].loss,
            "sums": {name: float(array.sum()) for name, array in learner.parameters().items()},
        }

    return run_ranks(run, 2)


@pytest.mark.parametrize(
    ("balance", "changes"),
    [
        ({"adaptive": True, "nominal_capacity": 0.9, "adaptive_decay": 0.5}, {}),
        ({"loss": "switch", "scope": "global", "coef": 0.1}, {}),
        ({"loss": "switch", "coef": 0.1, "z_loss": 1e-3}, {}),
        ({"capacity": 0.8, "drop": "position"}, {}),
        ({"bias_rate": 0.01}, {"router_bias": True}),
        ({}, {"num_experts": 0}),
    ],
    ids=["adaptive", "global", "switch", "capacity", "bias", "dense"],
)
def test_two_ranks_balance_as_one(balance, changes):
    """Micro-batches are alike in both, so that losses and capacities are over the same tokens."""
    spec = train_spec(**balance)
    first, second = two_ranks(spec, **changes)
    learner, results = learn(build(**changes), SoloCollective(), spec)
    assert first == second
    assert first["load"] == results[-1].experts.load_LE.tolist()
    assert first["coef"] == pytest.approx(results[-1].experts.coef_L.tolist(), rel=1e-5)
    assert first["loss"] == pytest.approx(results[-1].loss, rel=1e-5)
    for name, array in learner.parameters().items():
        assert first["sums"][name] == pytest.approx(float(array.sum()), rel=1e-3, abs=1e-3), name


def test_global_scope_takes_the_share_of_the_step_before():
    model = build()
    balancer = Balancer(model, BalanceSpec(loss="switch", scope="global"))
    assert balancer.now.share_LE is None
    sums = balancer.zeros()
    sums[:8] = torch.tensor([1.0, 3, 0, 4, 2, 2, 2, 2])
    balancer.update(sums)
    torch.testing.assert_close(
        balancer.now.share_LE, torch.tensor([[0.125, 0.375, 0, 0.5], [0.25, 0.25, 0.25, 0.25]])
    )


def test_a_resumed_learner_goes_on_bit_for_bit():
    spec = train_spec(adaptive=True, nominal_capacity=0.9, loss="switch", scope="global", coef=0.05)
    whole, _ = learn(build(), SoloCollective(), spec, steps=4)
    first, _ = learn(build(), SoloCollective(), spec, steps=2)
    saved = first.parameters(), first.moments()
    second = Learner(build(), spec, SoloCollective(), 2)
    second.restore(*({name: array.copy() for name, array in part.items()} for part in saved))
    for step in (2, 3):
        second.step(rows(step), 1e-2)
    for name, array in whole.parameters().items():
        assert np.array_equal(array, second.parameters()[name]), name
    with pytest.raises(KeyError):
        second.restore(saved[0], {k: v for k, v in saved[1].items() if k != "balance.coef"})


def test_the_watch_sums_steps_and_keeps_to_its_time():
    _, results = learn(build(), SoloCollective(), train_spec(nominal_capacity=0.5), steps=3)
    stats = [each.experts for each in results]
    watch = ExpertWatch("jinan", SPEC)
    assert watch.take(0, 0.0) is None
    watch.add(stats[0])
    assert watch.take(1, 10.0).steps == 1
    for each in stats[1:]:
        watch.add(each)
    assert watch.take(3, 10.0 + EVERY_S / 2) is None
    event = watch.take(3, 10.0 + EVERY_S / 2, similarity=[0.25, 0.5])
    assert (event.step, event.steps, event.layers, event.similarity) == (3, 2, [1, 2], [0.25, 0.5])
    assert event.load == (stats[1].load_LE + stats[2].load_LE).long().tolist()
    assert event.entropy == pytest.approx(((stats[1].entropy_L + stats[2].entropy_L) / 2).tolist(), rel=1e-4)
    assert sum(map(sum, event.dropped)) > 0
    assert msgspec.json.decode(msgspec.json.encode(event), type=events.ExpertsCounted) == event


def test_the_watch_loses_neither_a_similarity_nor_the_last_steps():
    _, results = learn(build(), SoloCollective(), train_spec(), steps=2)
    watch = ExpertWatch("jinan", SPEC)
    watch.add(results[0].experts)
    assert watch.take(1, 10.0).steps == 1
    measured = watch.take(1, 10.0, similarity=[0.25, 0.5])
    assert (measured.steps, measured.similarity) == (0, [0.25, 0.5])
    assert not any(map(any, measured.load))
    watch.add(results[1].experts)
    assert watch.take(2, 11.0) is None
    assert watch.take(2, 11.0, last=True).steps == 1
    assert watch.take(2, 11.0, last=True) is None


def test_a_dense_model_has_nothing_to_watch():
    _, results = learn(build(num_experts=0), SoloCollective(), train_spec(), steps=2)
    watch = ExpertWatch("dense", msgspec.structs.replace(SPEC, num_experts=0))
    for each in results:
        watch.add(each.experts)
    assert watch.take(2, 1e9, similarity=[], last=True) is None


def test_a_run_of_experts_tells_of_them(runner):
    runner.train()
    told = runner.events(events.ExpertsCounted)
    assert sum(event.steps for event in told) == len(runner.events(events.StepDone))
    assert told[-1].similarity
    assert abs(told[-1].similarity[0]) < 0.2
