import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from isthmus.models.attention import find_borders
from isthmus.models.short_attention import LONGEST, short_attention, suits


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("with_borders", [False, True])
def test_equals_the_fused_attention_in_fp32(draws, kv_heads, with_borders):
    q = torch.randn(3, 11, 4, 8, generator=draws, requires_grad=True)
    k, v = (torch.randn(3, 11, kv_heads, 8, generator=draws, requires_grad=True) for _ in range(2))
    mask = None
    if with_borders:
        docs = torch.tensor([[0] * 4 + [1] * 7] * 3)
        borders = find_borders(docs, torch.float32)
        assert borders is not None
        mask = borders.mask
    want = scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, is_causal=mask is None, enable_gqa=True
    ).transpose(1, 2)
    got = short_attention(q, k, v, mask)
    torch.testing.assert_close(got, want)
    weights = torch.randn(want.shape, generator=draws)
    want_grads = torch.autograd.grad((want * weights).sum(), (q, k, v))
    got_grads = torch.autograd.grad((got * weights).sum(), (q, k, v))
    torch.testing.assert_close(got_grads, want_grads)


def test_taken_for_short_bf16_alone():
    short, long = torch.empty(1, 8, 2, 4), torch.empty(1, LONGEST + 1, 2, 4)
    assert suits(short.bfloat16(), short.bfloat16())
    assert not suits(short, short)
    assert not suits(long.bfloat16(), long.bfloat16())
    assert not suits(short[:, :1].bfloat16(), short.bfloat16())  # one query over a cache
