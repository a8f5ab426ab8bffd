"""What one rank takes over from another."""

import threading

import pytest
import torch
from torch import nn

from isthmus.comm.collective import SoloCollective
from isthmus.errors import InputError
from isthmus.live.average import average
from isthmus.live.broken import is_of_the_group
from isthmus.live.retry import Before, Stepped
from isthmus.live.saves import Saves
from isthmus.live.state import Carried

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "plain": lambda p: torch.optim.SGD(p, lr=1e-2),
}


class Pair(SoloCollective):
    """One of two ranks, in threads of one process."""

    world_size = 2

    def __init__(self, rank: int, meeting: threading.Barrier, table: dict):
        self.rank, self._meeting, self._table = rank, meeting, table

    def _exchange(self, mine: object, root: int) -> object:
        if self.rank == root:
            self._table["said"] = mine
        self._meeting.wait()
        said = self._table["said"]
        self._meeting.wait()
        return said

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> None:
        tensor.copy_(self._exchange(tensor.clone(), root))

    def share(self, values, root: int = 0) -> list[int]:
        return list(self._exchange(values, root))


def made(kind: str, steps: int, dtype: torch.dtype = torch.float32) -> Carried:
    torch.manual_seed(steps)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)).to(dtype)
    optimizer = OPTIMIZERS[kind](model.parameters())
    for _ in range(steps):
        model(torch.randn(3, 4, dtype=dtype)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return Carried(model, [optimizer])


def same(one: Carried, other: Carried) -> bool:
    for mine, theirs in (
        (one.model_tensors(), other.model_tensors()),
        (one.optimizer_tensors(), other.optimizer_tensors()),
    ):
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
            return False
    return one.about() == other.about()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("donor_steps", "others_steps"), [(3, 0), (3, 2), (0, 2)])
def test_a_rank_becomes_its_donor(kind, donor_steps, others_steps):
    donor, other = made(kind, donor_steps), made(kind, others_steps)
    donor.optimizers[0].param_groups[0]["lr"] = 0.5
    meeting, table = threading.Barrier(2), {}
    other.become(donor.about())
    thread = threading.Thread(target=donor.share, args=(Pair(1, meeting, table), 1))
    thread.start()
    other.share(Pair(0, meeting, table), 1)
    thread.join()
    assert same(donor, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_brings_it_all_back(tmp_path, dtype):
    before, after = made("adamw", 3, dtype), made("adamw", 0, dtype)
    Saves(tmp_path, every=2).close(3, before, {"cursor": 7})
    assert Saves(tmp_path, every=2).resume(after) == (3, {"cursor": 7})
    assert same(before, after)
    other = Carried(nn.Linear(2, 2), [])
    with pytest.raises(InputError, match="other optimizers"):
        Saves(tmp_path, every=2).resume(other)


def test_state_that_cannot_travel_is_refused():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter]["graph"] = object()
    with pytest.raises(InputError, match="keeps a object"):
        Carried(nn.ParameterList([parameter]), [optimizer]).about()


def test_what_a_broken_step_changed_is_put_back():
    carried = made("adamw", 1)
    before = Before(carried)
    before.keep({"cursor": 1})
    means = carried.buffers[0].clone()
    drawn = torch.rand(3)
    carried.model(torch.randn(3, 4))
    assert before.changed()[0]
    assert before.put_back() == {"cursor": 1}
    assert torch.equal(carried.buffers[0], means)
    assert torch.equal(torch.rand(3), drawn)


def test_two_optimizers_step_one_after_the_other():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in model)
    stepped = Stepped(Carried(model, [first, second]))
    assert stepped.none
    first.step()
    assert not stepped.none
    assert not stepped.all
    second.step()
    assert stepped.all
    stepped.begin()
    assert stepped.none


def test_the_mean_of_one_is_itself():
    model = nn.Linear(2, 2)
    model.weight.grad = torch.ones(2, 2)
    assert average(list(model.parameters()), [(torch.ones(2), True)], SoloCollective(), notice=True) == 1
    assert torch.equal(model.weight.grad, torch.ones(2, 2))
    assert model.bias.grad is None


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:1"), True),
        (torch.distributed.DistStoreError("wait timeout after 300000ms"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Socket is no number"), False),
    ],
)
def test_whose_error_it_is(error, whose):
    assert is_of_the_group(error) is whose
