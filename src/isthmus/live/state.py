"""What a rank takes over from another one: parameters, buffers, and the state of any torch.optim optimizer.

An optimizer makes its state at its first step; a rank that never stepped makes what it is told the others
have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.optim import Optimizer

from isthmus.comm.collective import Collective, GroupBrokenError
from isthmus.errors import InputError

PACK_BYTES = 64 << 20
"""Small tensors travel together."""


class TornError(GroupBrokenError):
    """State that came from another rank is not what was sent."""


class TensorKind(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    on_host: bool


class About(msgspec.Struct, frozen=True):
    """Of one optimizer: what is no tensor, and which tensors there are."""

    groups: list[dict[str, Any]]
    scalars: list[dict[str, Any]]
    """By parameter, in the order of the groups."""
    tensors: list[dict[str, TensorKind]]


class Carried:
    """A model and its optimizers, seen as tensors and a description of them."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]):
        self.model, self.optimizers = model, list(optimizers)
        self.parameters = list(model.parameters())
        self.buffers = list(model.buffers())
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")

    def model_tensors(self) -> dict[str, Tensor]:
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor.detach() for name, tensor in named}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """'0.3.exp_avg': of the first optimizer's fourth parameter."""
        return {
            f"{number}.{index}.{key}": value.detach()
            for number, optimizer in enumerate(self.optimizers)
            for index, parameter in enumerate(_parameters(optimizer))
            for key, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def about(self) -> list[About]:
        """Raises InputError for state that cannot be carried."""
        return [_about(optimizer) for optimizer in self.optimizers]

    def become(self, abouts: Sequence[About]) -> None:
        """Takes groups and scalars, and makes room for the tensors. Raises InputError where it cannot."""
        if [_sizes(about) for about in abouts] != [_sizes(about) for about in self.about()]:
            raise InputError(
                "the state is that of other optimizers", where="live.join", hint="choose another folder"
            )
        for optimizer, about in zip(self.optimizers, abouts, strict=True):
            _become(optimizer, about)

    @torch.no_grad()
    def share(self, group: Collective, donor: int) -> None:
        """All ranks take the donor's tensors; the descriptions are alike already. Raises TornError."""
        for pack in _packs([*self.model_tensors().values(), *self.optimizer_tensors().values()]):
            flat = torch.cat([_bytes(tensor).to(self.device) for tensor in pack])
            group.broadcast_(flat, donor)
            mine = xxhash.xxh3_64_intdigest(flat.cpu().numpy().data) >> 1
            if group.share([mine], donor) != [mine]:
                raise TornError(f"the state that came from rank {donor} does not match its checksum")
            if group.rank != donor:
                for tensor, part in zip(pack, flat.split([_size(tensor) for tensor in pack]), strict=True):
                    tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    @torch.no_grad()
    def restore(self, model: Mapping[str, np.ndarray], moments: Mapping[str, np.ndarray]) -> None:
        """From arrays that `as_array` made. Raises InputError where they are those of another model."""
        for tensors, arrays in ((self.model_tensors(), model), (self.optimizer_tensors(), moments)):
            if tensors.keys() != arrays.keys():
                odd = sorted(tensors.keys() ^ arrays.keys())[0]
                raise InputError(
                    f"the checkpoint is that of another model: {odd}", hint="choose another folder"
                )
            for name, tensor in tensors.items():
                array = torch.from_numpy(arrays[name].copy())
                if array.shape != tensor.shape:
                    raise InputError(
                        f"the checkpoint is that of another model: {name}", hint="choose another folder"
                    )
                tensor.copy_(array.view(tensor.dtype) if array.dtype != tensor.dtype else array)


def as_array(tensor: Tensor) -> np.ndarray:
    """On the host; of a type that NumPy lacks, the bits."""
    tensor = tensor.detach().cpu().contiguous()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.view({1: torch.int8, 2: torch.int16}[tensor.element_size()]).numpy()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _about(optimizer: Optimizer) -> About:
    groups = [
        {
            key: float(value) if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key != "params" and (isinstance(value, Tensor) or _is_plain(value))
        }
        for group in optimizer.param_groups
    ]
    scalars: list[dict[str, Any]] = []
    tensors: list[dict[str, TensorKind]] = []
    for parameter in _parameters(optimizer):
        state = optimizer.state.get(parameter, {})
        kinds = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        rest = {key: value for key, value in state.items() if key not in kinds}
        for key, value in rest.items():
            if not _is_plain(value):
                raise InputError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} in its state ('{key}')",
                    where="live.join",
                    hint="only tensors and plain values can be taken over by another rank",
                )
        scalars.append(rest)
        tensors.append({key: _kind(value) for key, value in kinds.items()})
    return About(groups, scalars, tensors)


def _sizes(about: About) -> tuple[int, int]:
    return len(about.groups), len(about.tensors)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _kind(tensor: Tensor) -> TensorKind:
    name = str(tensor.dtype).removeprefix("torch.")
    return TensorKind(name, tuple(tensor.shape), tensor.device.type == "cpu")


def _become(optimizer: Optimizer, about: About) -> None:
    for group, told in zip(optimizer.param_groups, about.groups, strict=True):
        for key, value in told.items():
            now = group.get(key)
            if isinstance(now, Tensor):
                now.fill_(value)
            else:
                group[key] = tuple(value) if isinstance(now, tuple) else value
    parameters = _parameters(optimizer)
    for parameter, scalars, kinds in zip(parameters, about.scalars, about.tensors, strict=True):
        before = optimizer.state.get(parameter, {})
        state = dict(scalars)
        for key, kind in kinds.items():
            held = before.get(key)
            fits = isinstance(held, Tensor) and _kind(held) == kind
            state[key] = held if fits else _room(kind, parameter)
        if state:
            optimizer.state[parameter] = state
        else:
            optimizer.state.pop(parameter, None)


def _room(kind: TensorKind, parameter: Tensor) -> Tensor:
    device = "cpu" if kind.on_host else parameter.device
    return torch.zeros(kind.shape, dtype=getattr(torch, kind.dtype), device=device)


def _packs(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    pack: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if pack and size + _size(tensor) > PACK_BYTES:
            yield pack
            pack, size = [], 0
        pack.append(tensor)
        size += _size(tensor)
    if size:
        yield pack


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
