import itertools

import msgspec
import numpy as np
import pytest
import torch

from isthmus.errors import InputError
from isthmus.models.init import init_weights
from isthmus.models.router import Router
from isthmus.models.transformer import Transformer
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec
from isthmus.weights.upcycle import Recipe, moe_spec, upcycled

DENSE = ModelSpec(
    vocab_size=50, hidden_size=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=20,
    max_seq_len=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dense_model(**changes) -> Transformer:
    """With sharper attention and larger logits than at the start of a training."""
    model = Transformer(msgspec.structs.replace(DENSE, **changes))
    init_weights(model, 3)
    with torch.no_grad():
        model.embed.weight.mul_(2.0)
    return model


def arrays(model: Transformer) -> dict[str, np.ndarray]:
    return {name: param.detach().numpy() for name, param in model.named_parameters()}


def upcycled_model(dense: Transformer, recipe: Recipe) -> Transformer:
    weights = arrays(dense)
    moe = Transformer(moe_spec(dense.spec, recipe))
    made = dict(upcycled(dense.spec, recipe, weights.__getitem__))
    with torch.no_grad():
        for name, param in moe.named_parameters():
            param.copy_(torch.from_numpy(made[name]))
    return moe


def tokens(rows: int = 4, length: int = 50) -> torch.Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(5))


def difference(one: Transformer, other: Transformer) -> float:
    with torch.no_grad():
        return float((one(tokens()).logits - other(tokens()).logits).abs().max())


@pytest.mark.parametrize("top_k", [1, 2, 16])
@pytest.mark.parametrize("granularity", [1, 2, 4])
@pytest.mark.parametrize("tied_head", [True, False], ids=["tied", "untied"])
def test_logits_are_those_of_the_dense_model(tied_head, granularity, top_k):
    dense = dense_model(tied_head=tied_head)
    moe = upcycled_model(dense, Recipe(top_k=top_k, granularity=granularity))
    assert (moe.spec.num_experts, moe.spec.top_k) == (16 * granularity, top_k * granularity)
    assert difference(dense, moe) < 1e-5


def test_some_layers_stay_dense():
    dense = dense_model()
    moe = upcycled_model(dense, Recipe(moe_every=2, first_moe_layer=1, copies=4))
    assert moe.spec.moe_layers == [1]
    assert difference(dense, moe) < 1e-5


@pytest.mark.parametrize(
    "changes", [{"router_score": "sigmoid"}, {"gate_norm": 1.0}, {"router_bias": True}], ids=str
)
def test_any_router_that_renormalises_will_do(changes):
    dense = dense_model(**changes)
    assert difference(dense, upcycled_model(dense, Recipe(copies=4, granularity=2))) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("copies", [2, 6, 16])
@pytest.mark.parametrize("gate_norm", [0.0, 1.0])
def test_pieces_of_a_copy_are_chosen_together(copies, gate_norm, threads):
    """Equal router rows have to give equal logits to the bit; where they do not, TIE_MULTIPLE has to grow."""
    torch.set_num_threads(threads)
    draws = torch.Generator().manual_seed(copies)
    for width, num_tokens in itertools.product((24, 127, 1000, 4096), (1, 3, 200)):
        router = Router(ModelSpec(hidden_size=width, num_experts=2 * copies, top_k=4, gate_norm=gate_norm))
        rows = 0.02 * torch.randn(copies, width, generator=draws)
        with torch.no_grad():
            router.weight.copy_(rows.repeat_interleave(2, 0))
        expert_NK = router(torch.randn(num_tokens, width, generator=draws)).expert_NK
        assert (expert_NK[:, ::2] % 2 == 0).all()
        assert (expert_NK[:, 1::2] == expert_NK[:, ::2] + 1).all()


def test_one_layers_feed_forward_part_is_read_at_a_time_and_each_tensor_once():
    weights = arrays(dense_model())
    asked: list[str] = []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return weights[name]

    recipe = Recipe(copies=4, granularity=2)
    made = []
    for name, array in upcycled(DENSE, recipe, read):
        layer = name.partition(".moe.")[0]
        assert asked[-1].startswith(layer), "it reads ahead"
        assert array.flags.c_contiguous
        made.append((name, array.shape))
    assert made == list(param_shapes(moe_spec(DENSE, recipe)))
    assert asked == [name for name, _ in param_shapes(DENSE)]


def test_routers_are_those_of_a_model_from_scratch():
    moe = upcycled_model(dense_model(), Recipe(copies=4, seed=7))
    scratch = Transformer(moe.spec)
    init_weights(scratch, 7)
    name = "layers.1.moe.router.weight"
    assert torch.equal(moe.get_parameter(name), scratch.get_parameter(name))


def test_noise_depends_on_seed_and_name_alone():
    weights = arrays(dense_model())

    def made(seed: int) -> dict[str, np.ndarray]:
        return dict(upcycled(DENSE, Recipe(copies=4, noise=0.1, seed=seed), weights.__getitem__))

    one, again, other = made(1), made(1), made(2)
    name, sibling = (f"layers.2.moe.experts.{expert}.down" for expert in (3, 1))
    assert all(np.array_equal(one[each], again[each]) for each in one)
    assert not np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], one[sibling])
    dense = weights["layers.2.ffn.down.weight"].T
    assert np.std(one[name] - dense) == pytest.approx(0.1 * np.std(dense), rel=0.1)
    assert np.array_equal(one["embed.weight"], weights["embed.weight"])


@pytest.mark.parametrize(
    ("changes", "recipe", "message"),
    [
        ({"num_experts": 4}, {}, "4 experts already"),
        ({}, {"granularity": 3}, "3 does not divide the width 20"),
        ({}, {"granularity": 0}, "0 does not divide"),
        ({}, {"copies": 3, "granularity": 2}, "no multiple of 4"),
        ({}, {"copies": 1}, "1 is too few"),
        ({}, {"top_k": 17}, "17 of 16"),
        ({}, {"top_k": 0}, "0 of 16"),
        ({}, {"moe_every": 0}, "0 is too few"),
        ({}, {"first_moe_layer": 3}, "3 is none of 3 layers"),
        ({}, {"noise": -0.1}, "no standard deviation"),
        ({}, {"noise": float("nan")}, "no standard deviation"),
    ],
)
def test_what_cannot_be(changes, recipe, message):
    with pytest.raises(InputError, match=message):
        moe_spec(msgspec.structs.replace(DENSE, **changes), Recipe(**recipe))
