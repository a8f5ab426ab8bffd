import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isthmus.weights.formats import convert

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    1e-45,
    1e-40,
    6e-8,
    1.00390625,
    1.01171875,
    3.3e38,
    float("inf"),
    float("-inf"),
]


@given(hnp.arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1)))
def test_fp32_is_rounded_to_bf16_as_torch_does(bits):
    values = bits.view(np.float32)
    ours = convert(values, "F32", "BF16")
    theirs = torch.from_numpy(values.copy()).bfloat16()
    back = convert(ours, "BF16", "F32")
    np.testing.assert_array_equal(back, theirs.float().numpy())
    np.testing.assert_array_equal(convert(back, "F32", "BF16")[~np.isnan(back)], ours[~np.isnan(back)])


@pytest.mark.parametrize("target", ["BF16", "F32"])
def test_fp16_is_read(target):
    values = np.array([0.0, -2.5, 6e-8, 65504.0, np.inf, np.nan], np.float16)
    theirs = torch.from_numpy(values).to(torch.bfloat16 if target == "BF16" else torch.float32)
    got = convert(convert(values, "F16", target), target, "F32")
    np.testing.assert_array_equal(got, theirs.float().numpy())


def test_ties_go_to_even_and_what_is_no_number_stays_so():
    values = np.array([*SPECIAL, np.nan], np.float32)
    ours = convert(convert(values, "F32", "BF16"), "BF16", "F32")
    np.testing.assert_array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())
    worst = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(convert(convert(worst, "F32", "BF16"), "BF16", "F32")).all()
