"""What the steps of a probe say: block times, the cost of the exchange, memory. Averaged over the ranks."""

from collections.abc import Sequence

import torch

from isthmus.comm.collective import Collective
from isthmus.planner.cost.convention import MOMENTS
from isthmus.planner.probed.profile import Block, BlockTime, ExchangeTime, Workspace, fingerprint
from isthmus.spec.run import RunSpec
from isthmus.train.probe.blocks import Taken, at_middle, mean_over_ranks, middle, rest, total_s
from isthmus.train.probe.stamps import StampedLearner
from isthmus.train.probe.timing import spread_of

FIRST, LAST, ALL = slice(0, 1), slice(-1, None), slice(None)


class Results:
    """Args: run: the probed one, with its few layers; whole: the run that is to be predicted."""

    def __init__(self, whole: RunSpec, run: RunSpec, learner: StampedLearner, group: Collective):
        self._run, self._learner, self._group = run, learner, group
        self._model = fingerprint(whole.model)
        self._precision = "bf16" if learner.model.compute_dtype == torch.bfloat16 else "fp32"
        self._layers = {
            "embedding": 1,
            "attention": run.model.num_layers,
            "dense": run.model.num_layers - len(run.model.moe_layers),
            "moe": len(run.model.moe_layers),
            "head": 1,
        }
        self._num_params = sum(p.numel() for p in learner.model.parameters())

    def blocks(self, taken: Sequence[Taken]) -> list[BlockTime]:
        return [*(time for each in taken for time in self._blocks_of(each)), *self._others(taken)]

    def _blocks_of(self, taken: Taken) -> list[BlockTime]:
        names: list[Block] = ["embedding", "attention", "dense", "moe", "head"]
        return [self._block(name, taken) for name in names if self._layers[name]]

    def _block(self, name: Block, taken: Taken) -> BlockTime:
        steps, layers = taken.steps, self._layers[name]
        forward = middle(steps, ALL, name, "forward")
        first = middle(steps, FIRST, name, "backward")
        later = middle(steps, self._later(), name, "backward")
        both = [a + b for a, b in zip(forward, first, strict=True)]
        scale = self._scale(taken)
        numbers = [
            scale * at_middle(forward) / layers,
            scale * at_middle(first) / layers,
            scale * (at_middle(later) - at_middle(first)) / layers,
            taken.kept.get(name, 0) / layers,
            spread_of(both),
        ]
        forward_s, backward_s, accumulate_s, kept, spread = self._mean(numbers)
        return BlockTime(
            block=name,
            model=self._model,
            tokens=taken.size * self._run.data.seq_len,
            seq_len=self._run.data.seq_len,
            precision=self._precision,
            forward_s=forward_s,
            backward_s=backward_s,
            accumulate_s=max(0.0, accumulate_s),
            activation_bytes=round(kept),
            params=self._params_of(name) // layers,
            spread=spread,
        )

    def _later(self) -> slice:
        """Micro-batches that add to gradients, and exchange none."""
        return slice(1, None) if self._group.world_size == 1 else slice(1, -1)

    def _scale(self, taken: Taken) -> float:
        """Medians of pieces add up to a little less than the median of the whole: the rare delays of each are
        in no piece's median, but in most steps. This spreads them over the pieces.
        """
        names = {piece for step in taken.steps for pieces in step for piece in pieces}
        parts = 0.0
        for piece in names:
            parts += at_middle([sum(pieces.get(piece, 0.0) for pieces in step) for step in taken.steps])
        return at_middle([total_s(step) for step in taken.steps]) / parts if parts else 1.0

    def _others(self, taken: Sequence[Taken]) -> list[BlockTime]:
        """The optimizer and the rest of a step, over the steps of all sizes."""
        steps = [step for each in taken for step in each.steps]
        optimizer = rest(steps, "optimizer")
        if self._group.world_size == 1:
            optimizer = [a + b for a, b in zip(optimizer, rest(steps, "exchange"), strict=True)]
        pairs: list[tuple[Block, list[float]]] = [("optimizer", optimizer), ("step", rest(steps, "step"))]
        found: list[BlockTime] = []
        for name, values in pairs:
            seconds, spread = self._mean([at_middle(values), spread_of(values)])
            found.append(self._whole(name, seconds, 0.0, spread))
        return found

    def push(self, seconds: tuple[float, float]) -> list[BlockTime]:
        """Args: seconds: of rank 0 and of its client."""
        return [self._whole("push", *seconds, 0.0)]

    def _whole(self, name: Block, forward_s: float, backward_s: float, spread: float) -> BlockTime:
        """A part that is of the whole model."""
        return BlockTime(
            block=name,
            model=self._model,
            tokens=0,
            seq_len=self._run.data.seq_len,
            precision=self._precision,
            forward_s=forward_s,
            backward_s=backward_s,
            params=self._num_params,
            spread=spread,
        )

    def exchanges(self, taken: Sequence[Taken]) -> list[ExchangeTime]:
        """A step's last backward, which sends, less the one before it, and what is waited for after it."""
        if self._group.world_size == 1:
            return []
        found: list[ExchangeTime] = []
        for each in taken:
            waited = rest(each.steps, "exchange")
            later, last = (self._backward_s(each, pick) for pick in (self._later(), LAST))
            added = [w + b - a for w, a, b in zip(waited, later, last, strict=True)]
            (added_s,) = self._mean([at_middle(added)])
            found.append(
                ExchangeTime(
                    model=self._model,
                    ranks=self._group.world_size,
                    num_layers=self._run.model.num_layers,
                    moe_layers=len(self._run.model.moe_layers),
                    tokens=each.size * self._run.data.seq_len,
                    added_s=max(0.0, added_s),
                )
            )
        return found

    def _backward_s(self, taken: Taken, pick: slice) -> list[float]:
        return [
            sum(s for pieces in step[:-1][pick] for piece, s in pieces.items() if piece.way == "backward")
            for step in taken.steps
        ]

    def workspaces(self, taken: Sequence[Taken]) -> list[Workspace]:
        per_param = 4 * (2 + MOMENTS[self._run.train.optimizer] + (self._group.world_size > 1))
        found: list[Workspace] = []
        for each in taken:
            if each.peak_bytes is None:
                continue
            beside = each.peak_bytes - per_param * self._num_params - sum(each.kept.values())
            (num_bytes,) = self._mean([float(beside)])
            tokens = each.size * self._run.data.seq_len
            found.append(Workspace(model=self._model, tokens=tokens, num_bytes=max(0, round(num_bytes))))
        return found

    def _mean(self, numbers: Sequence[float]) -> list[float]:
        return mean_over_ranks(self._group, numbers, self._learner.device)

    def _params_of(self, name: str) -> int:
        """All of the kind together; a tied head has none of its own."""
        total = 0
        for full, parameter in self._learner.model.named_parameters():
            total += parameter.numel() * (_block_of(full) == name)
        return total


def _block_of(parameter: str) -> str:
    if parameter.startswith("embed."):
        return "embedding"
    if parameter.startswith(("norm.", "head.")):
        return "head"
    part = parameter.split(".")[2]
    return {"ffn_norm": "dense", "ffn": "dense", "moe": "moe"}.get(part, "attention")
