"""What a step that broke has changed already, and is put back before it is done again."""

from typing import Any

import msgspec
import torch
from torch import Tensor

from isthmus.live.state import Carried


class Before:
    """The state at the beginning of a step, but for what only the optimizer changes.

    Buffers (running means) change in forward, the random numbers that are drawn are gone, and the script may
    have written into `extra`.
    """

    def __init__(self, carried: Carried):
        self._carried = carried
        self._buffers: list[Tensor] = [buffer.detach().clone() for buffer in carried.buffers]
        self._random: Tensor = torch.get_rng_state()
        self._extra = b"{}"

    @torch.no_grad()
    def keep(self, extra: dict[str, Any]) -> None:
        for kept, buffer in zip(self._buffers, self._carried.buffers, strict=True):
            kept.copy_(buffer)
        self._random = torch.get_rng_state()
        self._extra = msgspec.json.encode(extra)

    def changed(self) -> list[bool]:
        """Which buffers are no longer what they were."""
        pairs = zip(self._buffers, self._carried.buffers, strict=True)
        return [not torch.equal(kept, buffer) for kept, buffer in pairs]

    @torch.no_grad()
    def put_back(self) -> dict[str, Any]:
        """Returns `extra` as it was."""
        for kept, buffer in zip(self._buffers, self._carried.buffers, strict=True):
            buffer.copy_(kept)
        torch.set_rng_state(self._random)
        return msgspec.json.decode(self._extra)


class Stepped:
    """Which optimizers have stepped in the step in hand, by hooks of theirs."""

    def __init__(self, carried: Carried):
        self._count = len(carried.optimizers)
        self._done = set[int]()
        for number, optimizer in enumerate(carried.optimizers):
            optimizer.register_step_post_hook(self._hook(number))

    def _hook(self, number: int):
        def stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self._done.add(number)

        return stepped

    def begin(self) -> None:
        self._done.clear()

    @property
    def all(self) -> bool:
        return bool(self._done) and len(self._done) == self._count

    @property
    def none(self) -> bool:
        return not self._done
