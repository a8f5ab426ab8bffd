"""Tensors in few messages: the root's messages are kept, and played to another rank."""

import torch
from torch import Tensor

from isthmus.comm.collective import SoloCollective
from isthmus.comm.many import broadcast_many_


class Sent(SoloCollective):
    """The root's end, or with `messages` that of a rank which receives them."""

    def __init__(self, messages: list[Tensor] | None = None):
        self.rank = 0 if messages is None else 1
        self.messages: list[Tensor] = messages or []

    def broadcast_(self, tensor: Tensor, root: int = 0) -> None:
        assert tensor.is_contiguous()
        if self.rank == 0:
            self.messages.append(tensor.clone())
        else:
            tensor.copy_(self.messages.pop(0))


def tensors(seed: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (), (0, 2), (40,), (2, 2)]
    found = [torch.randn(shape, generator=draws) for shape in shapes]
    found[0] = torch.nn.Parameter(found[0])
    return [*found, found[1].to(torch.bfloat16), torch.tensor([seed]), found[2] * float("nan")]


def test_all_ranks_get_the_roots_bits_in_few_messages():
    theirs, mine = tensors(1), tensors(2)
    places = [tensor.data_ptr() for tensor in mine]
    root = Sent()
    broadcast_many_(root, theirs, pack_bytes=128)
    kinds = [(message.dtype, message.numel()) for message in root.messages]
    f32, b16, i64 = torch.float32, torch.bfloat16, torch.int64
    assert kinds == [(f32, 18), (f32, 40), (f32, 4), (b16, 5), (i64, 1), (f32, 1)]
    other = Sent(root.messages)
    broadcast_many_(other, mine, pack_bytes=128)
    assert not other.messages
    assert all(a.equal(b) or a.isnan().all() for a, b in zip(mine, theirs, strict=True))
    assert [tensor.data_ptr() for tensor in mine] == places


def test_a_large_tensor_goes_as_it_is():
    large = torch.zeros(100)
    root = Sent()
    root.broadcast_ = lambda tensor, root=0: root_saw.append(tensor.data_ptr())  # pyright: ignore
    root_saw: list[int] = []
    broadcast_many_(root, [large, torch.ones(1)], pack_bytes=16)
    assert root_saw[0] == large.data_ptr()
