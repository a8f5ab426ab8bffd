import msgspec
import pytest
import reference
import torch

from isthmus.errors import InputError
from isthmus.models.balance import Balance
from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer, expert_groups
from isthmus.spec.balance import BalanceSpec
from isthmus.spec.count import count_params, param_shapes
from isthmus.spec.model import ModelSpec
from isthmus.spec.presets import presets

VARIANTS = {
    "moe": {},
    "dense": {"num_experts": 0},
    "untied": {"tied_head": False},
    "every-other-layer": {"first_moe_layer": 0, "moe_every": 2},
    "one-expert": {"num_experts": 1, "top_k": 1},
    "all-experts": {"top_k": 4},
    "top-1": {"top_k": 1},
    "mha": {"num_kv_heads": 4},
    "mqa": {"num_kv_heads": 1},
    "own-expert-width": {"expert_ffn_size": 12},
    "dense-among-moe": {"first_moe_layer": 0, "dense_layers": [1]},
    "sigmoid": {"router_score": "sigmoid"},
    "scores-as-they-are": {"renormalize": False},
    "sigmoid-as-they-are": {"router_score": "sigmoid", "renormalize": False, "route_scale": 2.5},
    "gate-norm": {"gate_norm": 2.0},
    "gate-norm-sigmoid": {"gate_norm": 0.5, "router_score": "sigmoid"},
    "bias": {"router_bias": True},
    "sigmoid-bias": {"router_bias": True, "router_score": "sigmoid"},
    "shared": {"shared_ffn_size": 14},
    "granular-shared": {"num_experts": 12, "top_k": 5, "expert_ffn_size": 6, "shared_ffn_size": 6},
}


def balance_of(model, **settings) -> Balance:
    spec = BalanceSpec(**settings)
    return Balance(spec, torch.full((len(model.spec.moe_layers),), spec.coef))


def sample(draws, rows=2, length=9, vocab_size=50):
    tokens = torch.randint(0, vocab_size, (rows, length + 1), generator=draws)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_logits_and_gradients_match_the_reference(build, draws, changes):
    model = build(**changes)
    tokens, targets = sample(draws)
    params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    want_logits, _ = reference.forward(params, model.spec, tokens)
    torch.testing.assert_close(model(tokens).logits, want_logits, rtol=2e-4, atol=2e-4)
    coef = 10.0
    want = reference.loss(params, model.spec, tokens, targets, coef)
    want.backward()
    output = model(tokens, targets, balance=balance_of(model, coef=coef))
    output.loss.backward()
    torch.testing.assert_close(output.loss, want, rtol=1e-5, atol=1e-6)
    for name, param in model.named_parameters():
        expected = params[name].grad
        if param.grad is None:
            assert expected is None or float(expected.abs().max()) == 0.0, name
            continue
        torch.testing.assert_close(
            param.grad, expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_bf16_stays_near_fp32(build, draws):
    tokens, targets = sample(draws, rows=4, length=16)
    losses = [build(dtype)(tokens, targets) for dtype in (torch.float32, torch.bfloat16)]
    losses[1].loss.backward()
    torch.testing.assert_close(losses[0].loss, losses[1].loss, rtol=3e-2, atol=0)


def test_documents_do_not_attend_across_their_borders(build, draws):
    """A batch with one, two and four documents to a row equals each document run on its own."""
    model = build()
    tokens, targets = sample(draws, rows=3, length=12)
    docs = torch.tensor([[7] * 12, [0] * 5 + [1] * 7, [1] * 3 + [2] * 1 + [3] * 4 + [1] * 4])
    logits = model(tokens, None, docs).logits
    losses = []
    for row, start, end in [(0, 0, 12), (1, 0, 5), (1, 5, 12), (2, 0, 3), (2, 3, 4), (2, 4, 8), (2, 8, 12)]:
        part = slice(start, end)
        if (row, start) != (2, 8):  # its number is that of an earlier document, which it may see
            alone = model(tokens[row : row + 1, part]).logits
            torch.testing.assert_close(logits[row, part], alone[0], rtol=1e-4, atol=1e-4)
        inner = slice(start, end if end == 12 else end - 1)
        losses.append(
            torch.nn.functional.cross_entropy(logits[row, inner], targets[row, inner], reduction="sum")
        )
    output = model(tokens, targets, docs)
    assert int(output.num_targets) == 36 - 1 - 3
    torch.testing.assert_close(output.ce_loss, sum(losses) / 32, rtol=1e-5, atol=1e-6)


def test_gradients_with_all_rows_split_equal_documents_alone(build, draws):
    model, alone = build(), build()
    tokens, targets = sample(draws, rows=2, length=10)
    docs = torch.tensor([[0] * 4 + [1] * 6] * 2)
    model(tokens, targets, docs).loss.backward()
    targets = targets.clone()
    targets[:, 3] = -100
    first = alone(tokens[:, :4], targets[:, :4])
    second = alone(tokens[:, 4:], targets[:, 4:])
    (first.loss * (6 / 18) + second.loss * (12 / 18)).backward()
    for (name, got), want in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert (got.grad is None) == (want.grad is None), name
        if got.grad is not None:
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-5)


def test_the_last_target_counts_only_inside_its_document(build, draws):
    model = build()
    tokens, targets = sample(draws, rows=1, length=4)
    same, other = torch.zeros(1, 5, dtype=torch.int64), torch.tensor([[0, 0, 0, 0, 1]])
    assert int(model(tokens, targets, same).num_targets) == 4
    assert int(model(tokens, targets, other).num_targets) == 3


def test_no_target_counts(build, draws):
    model = build()
    tokens, targets = sample(draws)
    output = model(tokens, torch.full_like(targets, -100))
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in model.parameters())


def test_int32_batches_are_taken_as_the_data_has_them(build, draws):
    model = build()
    tokens, targets = (part.int() for part in sample(draws))
    assert torch.isfinite(model(tokens, targets, torch.zeros(2, 10, dtype=torch.int32)).loss)


@pytest.mark.parametrize("name", presets)
def test_names_and_shapes_are_those_that_the_planner_counts(name):
    with torch.device("meta"):
        model = Transformer(presets[name])
    built = [(name, tuple(param.shape)) for name, param in model.named_parameters()]
    assert built == list(param_shapes(presets[name]))
    assert sum(param.numel() for param in model.parameters()) == count_params(presets[name])


def test_expert_groups_point_into_expert_tokens(build, draws):
    model = build(num_layers=4, first_moe_layer=1, moe_every=2)
    groups = expert_groups(model)
    names = {name for name, _ in model.named_parameters()}
    assert groups.keys() == {name for name in names if ".experts." in name}
    assert groups["layers.1.moe.experts.2.down"] == 2
    assert groups["layers.3.moe.experts.0.gate_up"] == 4
    output = model(*sample(draws))
    output.loss.backward()
    tokens = output.expert_tokens.flatten().tolist()
    assert sum(tokens) == 2 * 2 * 9 * 2
    for name, group in groups.items():
        assert (model.get_parameter(name).grad is None) == (tokens[group] == 0)


def test_init_is_the_same_bits_for_any_thread_count_and_depends_on_the_seed(build):
    spec = build().spec
    models = []
    for threads, seed in ((1, 5), (2, 5), (1, 6)):
        torch.set_num_threads(threads)
        model = Transformer(spec)
        init_weights(model, seed)
        models.append(dict(model.named_parameters()))
    for name, param in models[0].items():
        assert torch.equal(param, models[1][name])
        assert torch.isfinite(param).all()
        if param.dim() > 1:
            assert not torch.equal(param, models[2][name])


def test_training_learns_a_repeated_sequence(draws):
    spec = ModelSpec(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16,
                     ffn_size=48, num_experts=4)  # fmt: skip
    model = Transformer(spec)
    init_weights(model, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    phrase = torch.randint(0, 64, (1, 9), generator=draws)
    tokens = phrase.repeat(2, 4)
    losses = []
    for _ in range(25):
        output = model(tokens[:, :-1], tokens[:, 1:])
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.ce_loss))
    assert losses[0] == pytest.approx(4.7, abs=0.6)  # ln 64, and 0.5 as the logits have unit variance
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "changes", [{"num_heads": 3, "num_kv_heads": 2}, {"head_dim": 7}, {"num_experts": 2, "top_k": 3}]
)
def test_impossible_shapes_are_refused(changes):
    with pytest.raises(InputError):
        Transformer(msgspec.structs.replace(ModelSpec(), **changes))
