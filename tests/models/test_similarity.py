import pytest
import torch

from isthmus.models.similarity import expert_similarity


@torch.no_grad()
def pairwise(layer) -> float:
    flat = torch.stack([torch.cat([p.flatten() for p in expert.parameters()]) for expert in layer.experts])
    flat = torch.nn.functional.normalize(flat.double(), dim=-1)
    cosines = flat @ flat.T
    count = len(flat)
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def test_it_is_the_mean_cosine_over_pairs(build):
    model = build(num_experts=5)
    got = expert_similarity(model)
    want = [pairwise(layer.moe) for layer in model.layers if layer.is_moe]
    assert len(got) == 2
    assert got == pytest.approx(want, abs=1e-6)


def test_equal_experts_are_one_alike_and_opposite_ones_are_not(build):
    model = build(num_experts=2)
    with torch.no_grad():
        for layer in (1, 2):
            first, second = model.layers[layer].moe.experts
            sign = 1.0 if layer == 1 else -1.0
            for a, b in zip(first.parameters(), second.parameters(), strict=True):
                b.copy_(sign * a)
    assert expert_similarity(model) == pytest.approx([1.0, -1.0])


def test_one_expert_and_no_expert(build):
    assert expert_similarity(build(num_experts=1, top_k=1)) == [1.0, 1.0]
    assert expert_similarity(build(num_experts=0)) == []
