import math

import pytest
from msgspec.structs import replace

from isthmus.spec.check import check_run
from isthmus.spec.count import count_active_params, count_params, param_shapes
from isthmus.spec.presets import presets
from isthmus.spec.run import DataSpec, RunSpec


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("llama-3-8b", 8_030_261_248, 8_030_261_248),  # as published with the weights
        ("llama-3-70b", 70_553_706_496, 70_553_706_496),
        ("mixtral-8x7b", 46_702_792_704, 12_879_925_248),
        ("qwen3-30b-a3b", 30_532_122_624, None),
    ],
)
def test_counts_are_those_of_the_published_weights(name, total, active):
    assert count_params(presets[name]) == total
    assert active is None or count_active_params(presets[name]) == active


def test_skywork_moe_is_146b_with_22b_active():
    assert 145.5e9 < count_params(presets["skywork-moe-146b"]) < 147e9
    assert 22e9 < count_active_params(presets["skywork-moe-146b"]) < 23e9


def test_tiny_moe_is_small_enough_for_the_demo():
    assert 2e6 <= count_params(presets["tiny-moe"]) <= 6e6


@pytest.mark.parametrize("name", presets)
def test_every_preset_is_possible(name):
    assert list(check_run(RunSpec(model=presets[name], data=DataSpec(seq_len=256)))) == []


@pytest.mark.parametrize("name", presets)
def test_names_are_unique_and_sum_to_the_count(name):
    shapes = dict(param_shapes(presets[name]))
    assert len(shapes) == len(list(param_shapes(presets[name])))
    assert sum(map(math.prod, shapes.values())) == count_params(presets[name])
    assert ("head.weight" in shapes) == (not presets[name].tied_head)


def test_dense_layers_come_before_and_between():
    model = replace(presets["tiny-moe"], num_layers=6, first_moe_layer=1, moe_every=2)
    moe = {name.split(".")[1] for name, _ in param_shapes(model) if ".moe." in name}
    assert moe == {"1", "3", "5"}
