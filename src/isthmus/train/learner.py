"""A model in training on this rank: one optimizer step, one evaluation. Knows nothing of feeds and files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from isthmus.comm.collective import Collective
from isthmus.comm.many import broadcast_many_
from isthmus.errors import IsthmusError
from isthmus.faults.inject.kinds import Point
from isthmus.faults.page import PageWriter, Phase
from isthmus.models.transformer import Transformer
from isthmus.parallel.bits import checksum
from isthmus.parallel.data_parallel import DataParallel
from isthmus.spec.run import TrainSpec
from isthmus.train.balance import Balancer, ExpertStats
from isthmus.train.batches import Rows, micro_batches
from isthmus.train.injectors import Injectors
from isthmus.train.optimizer import clip_gradients, make_optimizer
from isthmus.weights.tensorfile import Arrays

MAX_LOST_STEPS = 10


@dataclass(frozen=True)
class StepResult:
    """The same on all ranks of the site."""

    loss: float
    """Mean cross entropy over the targets that counted."""
    grad_norm: float
    """Before clipping. Where it is not finite, the parameters were left as they were."""
    expert_tokens: list[int]
    """Tokens each expert worked on, of one MoE layer after the other."""
    experts: ExpertStats
    rank_losses: list[float]
    """Mean cross entropy of each rank's own rows."""
    bad_ranks: list[int]
    """Ranks whose own gradient, before the exchange, was not finite."""
    step_s: float
    notices: int
    """Ranks that passed `notice`."""


class Learner:
    """Owns model, optimizer and gradient exchange of one rank.

    Args:
        micro_batch: rows of one forward and backward; gradients of the micro-batches add up.
    """

    def __init__(
        self,
        model: Transformer,
        spec: TrainSpec,
        group: Collective,
        micro_batch: int,
        page: PageWriter | None = None,
    ):
        self.model = model
        self.group = group
        self.page = page or PageWriter()
        self.injectors = Injectors()
        self.steps = 0
        """Done so far, as the loop counts them."""
        self.micro_batch = micro_batch
        self.device = str(model.head_weight.device)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.optimizer = make_optimizer(spec, trained)
        self._parallel = DataParallel(model, group)
        self._balancer = Balancer(model, spec.balance)
        self._parameters = [parameter for _, parameter in trained]
        self._grad_clip = spec.grad_clip
        self._lost_steps = 0

    def step(self, rows: Rows, lr: float, notice: bool = False) -> StepResult:
        """Forward, backward, exchange, clip, update on this rank's (tokens, doc_ids), int32[n, T+1].

        Where the gradient is not finite nothing changes; `MAX_LOST_STEPS` times in a row raise IsthmusError.
        """
        start_s = time.perf_counter()
        sums, facts_3R, num_targets = self._exchange(rows, notice)
        self.page.phase(Phase.UPDATE)
        # From here on no other rank is needed: the step is done on this one, or it was never begun.
        grad_norm = clip_gradients(self._parameters, self._grad_clip)
        if np.isfinite(grad_norm):
            self.optimizer.step(lr)
            self._at(Point.COMMIT)
            self._lost_steps = 0
        else:
            self._lost_steps += 1
            self._give_up_at_last()
        for parameter in self._parameters:
            parameter.grad = None
        (notices, loss), experts = sums[:2].tolist(), self._balancer.update(sums[2:])
        targets, losses, norms = facts_3R.tolist()
        rank_losses = [loss / max(count, 1.0) for loss, count in zip(losses, targets, strict=True)]
        norms = norms if len(norms) > 1 else [grad_norm]
        self.page.saw(norms[self.group.rank], rank_losses[self.group.rank])
        if not isfinite(norms[self.group.rank]):
            self.page.nonfinite()
        return StepResult(
            loss=loss / max(num_targets, 1),
            grad_norm=grad_norm,
            expert_tokens=experts.worked_tokens.flatten().long().tolist(),
            experts=experts,
            rank_losses=rank_losses,
            bad_ranks=[rank for rank, norm in enumerate(norms) if not isfinite(norm)],
            step_s=time.perf_counter() - start_s,
            notices=int(notices),
        )

    def _exchange(self, rows: Rows, notice: bool) -> tuple[Tensor, Tensor, int]:
        """All that ranks have to tell each other in a step: afterwards each has the mean gradient.

        Returns fp32 [notices, summed cross entropy, what the routers did...]; by rank its targets, its summed
        cross entropy and the norm of its own gradient, [3, ranks]; and the targets of all.
        """
        sums = self._backward(rows)
        self._at(Point.EXCHANGE)
        self.page.phase(Phase.EXCHANGE)
        num_targets = self._parallel.finish()
        facts_3R = torch.zeros(3, self.group.world_size, device=self.device)
        facts_3R[:2, self.group.rank] = sums[:2]
        facts_3R[2, self.group.rank] = self._parallel.own_norm
        sums[0] = float(notice)
        both = torch.cat([sums, facts_3R.flatten()])
        self.group.all_reduce_(both)
        return both[: len(sums)], both[len(sums) :].view_as(facts_3R), num_targets

    def _at(self, point: Point) -> None:
        self.injectors.at(point, self.steps, parameters=self._parameters, group=self.group)

    def _give_up_at_last(self) -> None:
        if self._lost_steps >= MAX_LOST_STEPS:
            raise IsthmusError(
                f"the gradient was not finite in {MAX_LOST_STEPS} steps in a row; they were left out",
                hint="lower train.lr, raise train.warmup, or set train.precision: fp32; then resume",
            )

    def _backward(self, rows: Rows) -> Tensor:
        """Adds up the gradient; fp32 [targets, summed cross entropy, what the routers did...] of its own."""
        sums = torch.cat([torch.zeros(2, device=self.device), self._balancer.zeros()])
        balance, left = self._balancer.now, len(rows[0])
        self._at(Point.COMPUTE)
        for tokens_BT, targets_BT, doc_ids_BT in micro_batches(rows, self.micro_batch, self.device):
            left -= len(tokens_BT)
            self.page.phase(Phase.FORWARD)
            if left == 0:
                self._at(Point.GRADIENT)
            output = self.model(tokens_BT, targets_BT, doc_ids_BT, balance)
            self.page.phase(Phase.BACKWARD)
            self._parallel.backward(output.loss, output.num_targets, last=left == 0)
            sums[0] += output.num_targets
            sums[1] += output.ce_loss.detach() * output.num_targets
            self._balancer.add(sums[2:], output.routing)
        return sums

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> float:
        """Mean cross entropy over the rows of all ranks, nats per token; nan where there are none."""
        sums = torch.zeros(2, device=self.device)
        for tokens_BT, targets_BT, doc_ids_BT in micro_batches(rows, self.micro_batch, self.device):
            output = self.model(tokens_BT, targets_BT, doc_ids_BT)
            sums[0] += output.ce_loss * output.num_targets
            sums[1] += output.num_targets
        self.group.all_reduce_(sums)
        total, count = sums.tolist()
        return total / count if count else float("nan")

    def restart(self) -> None:
        """After the group broke or changed: nothing of the step in hand is left."""
        self._parallel.restart()

    def take_from_root(self, moments: bool = False, root: int = 0) -> None:
        """All ranks take the root's parameters, and its moments if asked."""
        self._parallel.broadcast_parameters(root)
        if moments:
            broadcast_many_(self.group, self._moments().values(), root)

    def checksum(self, piece: int, pieces: int) -> int:
        """Of one of `pieces` equal parts of the parameters, see `parallel.bits`."""
        return checksum(self._parameters, piece, pieces)

    def parameters(self) -> dict[str, np.ndarray]:
        """By name, on the host; where they live there, these are the parameters' own memory."""
        return {name: _on_host(parameter) for name, parameter in self.model.named_parameters()}

    def moments(self) -> dict[str, np.ndarray]:
        """The optimizer's, and the balance of the experts."""
        return {name: _on_host(tensor) for name, tensor in self._moments().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The live parameters (model.*) and moments (optimizer.*), where they are."""
        named = {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        return named | {f"optimizer.{name}": tensor for name, tensor in self._moments().items()}

    def _moments(self) -> dict[str, Tensor]:
        return {**self.optimizer.state(), **self._balancer.state()}

    @torch.no_grad()
    def restore(self, parameters: Arrays, moments: Arrays) -> None:
        """Raises KeyError if one is missing."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(torch.from_numpy(parameters[name].copy()))
        tensors = _tensors(moments)
        self.optimizer.restore(tensors)
        self._balancer.restore(tensors)


def _on_host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
