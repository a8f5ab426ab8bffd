"""When each block of a model begins, forward and backward, in the midst of real steps.

Blocks are not run by themselves: caches, allocator, threads and the gradients that are there already are
then those of training. A mark at each border cuts a step into pieces that leave nothing out.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.chips import Chip
from isthmus.comm.collective import Collective
from isthmus.models.transformer import Block, Transformer
from isthmus.spec.run import TrainSpec
from isthmus.train.batches import Rows
from isthmus.train.learner import Learner, StepResult


class Piece(NamedTuple):
    """Of a step: 'attention', 'forward'; or 'exchange', 'optimizer', 'step' with an empty way."""

    block: str
    way: str = ""


class Stamps:
    """Marks in the order they were made; each names the piece that begins with it."""

    def __init__(self, chip: Chip):
        self._chip = chip
        self.made: list[tuple[Piece, Any]] = []
        self.now = Piece("step")
        self.enabled = True

    def mark(self, piece: Piece) -> None:
        self.now = piece
        if self.enabled:
            self.made.append((piece, self._chip.mark()))

    def take(self) -> list[tuple[Piece, float]]:
        """(piece, seconds) since the last call, in order; the last mark begins the next ones."""
        self._chip.synchronize()
        made, self.made = self.made, self.made[-1:]
        return [(piece, self._chip.seconds(start, end)) for (piece, start), (_, end) in pairwise(made)]

    def attach(self, model: Transformer) -> None:
        """Hooks at the borders of the blocks; they cost some microseconds each."""
        blocks: list[Block] = list(model.layers)  # pyright: ignore[reportAssignmentType]
        feeds = ["moe" if block.is_moe else "dense" for block in blocks]
        model.register_forward_pre_hook(lambda *_: self.mark(Piece("embedding", "forward")))
        for index, block in enumerate(blocks):
            before = feeds[index - 1] if index else "embedding"
            block.register_forward_pre_hook(self._border("attention", before))
            block.ffn_norm.register_forward_pre_hook(self._border(feeds[index], "attention"))
        model.norm.register_forward_pre_hook(self._border("head", feeds[-1]))
        model.register_forward_hook(lambda *_: self.mark(Piece("head", "backward")))

    def _border(self, after: str, before: str) -> Callable[..., tuple[Any, ...]]:
        """Forward enters `after` here; backward comes back to `before`."""

        def cross(_: object, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            self.mark(Piece(after, "forward"))
            x: Any = inputs[0]
            if torch.is_grad_enabled():
                x = _Border.apply(x, lambda: self.mark(Piece(before, "backward")))
            return x, *inputs[1:]

        return cross


class _Border(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, passed: Callable[[], None]) -> Tensor:
        ctx.passed = passed
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        ctx.passed()
        return grads[0], None


class StampedLearner(Learner):
    """A learner that marks the parts of its steps."""

    def __init__(self, model: Transformer, spec: TrainSpec, group: Collective, stamps: Stamps):
        super().__init__(model, spec, group, micro_batch=1)
        self.stamps = stamps
        stamps.attach(model)
        finish = self._parallel.finish

        def finished() -> int:
            total = finish()
            stamps.mark(Piece("optimizer"))
            return total

        self._parallel.finish = finished

    def step(self, rows: Rows, lr: float, notice: bool = False) -> StepResult:
        result = super().step(rows, lr, notice)
        self.stamps.mark(Piece("step"))
        return result

    def _backward(self, rows: Rows) -> Tensor:
        sums = super()._backward(rows)
        self.stamps.mark(Piece("exchange"))
        return sums


class KeptBytes:
    """Bytes that autograd keeps from forward to backward, by the block that saved them first."""

    def __init__(self, stamps: Stamps, model: Transformer):
        self._stamps = stamps
        self._seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.by_block: dict[str, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            block = self._stamps.now.block
            self.by_block[block] = self.by_block.get(block, 0) + storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor


Passes = list[dict[Piece, float]]


def by_step(pieces: Sequence[tuple[Piece, float]]) -> list[Passes]:
    """For each step its micro-batches, and last what is no micro-batch's.

    A step begins with the piece 'step': what lies between the end of the one before and its first
    micro-batch. The very first may lack it.
    """
    steps: list[Passes] = []
    rest: dict[Piece, float] = {}
    for piece, seconds in pieces:
        if piece.block == "step" or not steps:
            rest = {}
            steps.append([rest])
        if piece == Piece("embedding", "forward"):
            steps[-1].insert(-1, {})
        into = steps[-1][-2] if piece.way else rest
        into[piece] = into.get(piece, 0.0) + seconds
    return steps
