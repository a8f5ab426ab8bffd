"""A model in training on this rank: one optimizer step, one evaluation. Knows nothing of feeds and files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isthmus.comm.collective import Collective
from isthmus.errors import IsthmusError
from isthmus.models.transformer import Transformer
from isthmus.parallel.data_parallel import DataParallel
from isthmus.spec.run import TrainSpec
from isthmus.train.balance import Balancer, ExpertStats
from isthmus.train.batches import Rows, micro_batches
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
    step_s: float
    notices: int
    """Ranks that passed `notice`."""


class Learner:
    """Owns model, optimizer and gradient exchange of one rank.

    Args:
        micro_batch: rows of one forward and backward; gradients of the micro-batches add up.
    """

    def __init__(self, model: Transformer, spec: TrainSpec, group: Collective, micro_batch: int):
        self.model = model
        self.group = group
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
        sums = self._backward(rows)
        num_targets = self._parallel.finish()
        grad_norm = clip_gradients(self._parameters, self._grad_clip)
        if np.isfinite(grad_norm):
            self.optimizer.step(lr)
            self._lost_steps = 0
        else:
            self._lost_steps += 1
            self._give_up_at_last()
        for parameter in self._parameters:
            parameter.grad = None
        sums[0] = float(notice)
        self.group.all_reduce_(sums)
        notices, loss = sums[:2].tolist()
        experts = self._balancer.update(sums[2:])
        return StepResult(
            loss=loss / max(num_targets, 1),
            grad_norm=grad_norm,
            expert_tokens=experts.worked_tokens.flatten().long().tolist(),
            experts=experts,
            step_s=time.perf_counter() - start_s,
            notices=int(notices),
        )

    def _give_up_at_last(self) -> None:
        if self._lost_steps >= MAX_LOST_STEPS:
            raise IsthmusError(
                f"the gradient was not finite in {MAX_LOST_STEPS} steps in a row; they were left out",
                hint="lower train.lr, raise train.warmup, or set train.precision: fp32; then resume",
            )

    def _backward(self, rows: Rows) -> Tensor:
        """Adds up the gradient; fp32 [free, summed cross entropy, what the routers did...] of this rank."""
        sums = torch.cat([torch.zeros(2, device=self.device), self._balancer.zeros()])
        balance, left = self._balancer.now, len(rows[0])
        for tokens_BT, targets_BT, doc_ids_BT in micro_batches(rows, self.micro_batch, self.device):
            left -= len(tokens_BT)
            output = self.model(tokens_BT, targets_BT, doc_ids_BT, balance)
            self._parallel.backward(output.loss, output.num_targets, last=left == 0)
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

    def take_from_root(self, moments: bool = False) -> None:
        """All ranks take rank 0's parameters, and its moments if asked."""
        self._parallel.broadcast_parameters()
        if moments:
            for tensor in self._moments().values():
                self.group.broadcast_(tensor)

    def parameters(self) -> dict[str, np.ndarray]:
        """By name, on the host; where they live there, these are the parameters' own memory."""
        return {name: _on_host(parameter) for name, parameter in self.model.named_parameters()}

    def moments(self) -> dict[str, np.ndarray]:
        """The optimizer's, and the balance of the experts."""
        return {name: _on_host(tensor) for name, tensor in self._moments().items()}

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
