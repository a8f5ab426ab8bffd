"""A configuration costs what the search says of the same layout, and never less than the best plan."""

import pytest

from isthmus.planner.chips.find import find_chip
from isthmus.planner.formats import read_config
from isthmus.planner.search.foreign import compare

ARGUMENTS = """\
--num-layers 24 --hidden-size 2048 --ffn-hidden-size 5632 --num-attention-heads 16 --swiglu
--normalization RMSNorm --disable-bias-linear --seq-length 2048 --max-position-embeddings 2048 --bf16
--position-embedding-type rope --untie-embeddings-and-output-weights --padded-vocab-size 32000
--global-batch-size {batch} --use-distributed-optimizer --micro-batch-size {micro}
--tensor-model-parallel-size {tp} --pipeline-model-parallel-size {pp}
"""


@pytest.mark.parametrize(("tp", "pp", "micro"), [(1, 1, 1), (2, 1, 2), (1, 4, 1), (4, 2, 2), (8, 4, 1)])
@pytest.mark.parametrize("chip", ["a100", "ascend910b"])
def test_no_configuration_that_fits_beats_the_best_plan(chip: str, tp: int, pp: int, micro: int):
    text = ARGUMENTS.format(batch=128, tp=tp, pp=pp, micro=micro)
    found = compare(read_config(text, 32), find_chip(chip))
    assert found.best is not None
    assert found.best.fits
    assert found.gain is not None
    if found.config.fits:
        assert found.gain >= -1e-9
    assert sum(found.config.parts.values()) == pytest.approx(found.config.step_s)


def test_the_best_layout_costs_the_same_from_a_file():
    """With what the best plan has as arguments, nothing is gained: both sides are one model of cost."""
    text = ARGUMENTS.format(batch=32, tp=1, pp=1, micro=1)
    found = compare(read_config(text, 32), find_chip("h100"))
    assert found.best is not None
    assert found.best.layout.tp == found.best.layout.pp == 1
    if found.best.layout.micro_batch == 1 and found.best.layout.sharding == 1:
        assert found.best.step_s == pytest.approx(found.config.step_s)


def test_wide_plain_layers_are_timed_as_gated_ones_of_two_thirds():
    """GELU: two matrices of 8192 cost as three of 5461, to the next multiple of 128."""
    gated = ARGUMENTS.format(batch=64, tp=1, pp=1, micro=1)
    plain = gated.replace("--swiglu", "").replace("5632", "8448")
    left, right = (compare(read_config(text, 8), find_chip("a100")) for text in (gated, plain))
    assert right.config.step_s == pytest.approx(left.config.step_s)
