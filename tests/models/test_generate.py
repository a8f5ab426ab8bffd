import pytest
import torch

from isthmus.errors import InputError
from isthmus.models.generate import Sampling, generate


@pytest.mark.parametrize("changes", [{}, {"num_experts": 0, "tied_head": False}], ids=["moe", "dense"])
def test_cached_logits_equal_uncached(build, draws, changes):
    model = build(**changes)
    tokens = torch.randint(0, 50, (2, 12), generator=draws)
    want = model(tokens).logits
    cache = model.new_cache(2, 12)
    with torch.no_grad():
        got = [model.decode(tokens[:, :5], cache)] + [
            model.decode(tokens[:, t : t + 1], cache) for t in range(5, 12)
        ]
    torch.testing.assert_close(torch.stack(got, 1), want[:, 4:], rtol=1e-4, atol=1e-4)


def test_greedy_equals_argmax_without_cache(build):
    model = build()
    ids = [3, 1, 4]
    for token in generate(model, [3, 1, 4], 8, sampling=Sampling(temperature=0)):
        assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
    assert len(ids) == 11


def test_same_seed_same_text(build):
    model = build()
    texts = [list(generate(model, [1], 20, sampling=Sampling(seed=seed))) for seed in (4, 4, 5)]
    assert texts[0] == texts[1] != texts[2]


def test_tiny_top_p_is_greedy(build):
    model = build()
    greedy = list(generate(model, [1], 10, sampling=Sampling(temperature=0)))
    assert list(generate(model, [1], 10, sampling=Sampling(top_p=0.0))) == greedy


def test_stops_at_the_end_token_and_at_the_models_length(build):
    model = build()
    greedy = list(generate(model, [1], 100, sampling=Sampling(temperature=0)))
    assert len(greedy) == model.spec.max_seq_len - 1
    end = greedy[5]
    stopped = list(generate(model, [1], 100, sampling=Sampling(temperature=0), eos_id=end))
    assert stopped == greedy[: greedy.index(end)]


def test_gradients_stay_on_in_the_caller(build):
    for _ in generate(build(), [1], 2):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 64, "64 tokens")])
def test_prompts_that_cannot_be_continued(build, prompt, message):
    with pytest.raises(InputError, match=message):
        generate(build(), prompt, 1)
