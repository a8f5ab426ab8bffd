"""AdamW and SGD on named parameters, in place.

`torch.optim` imports `torch._dynamo` when the first optimizer is made, which takes seconds; one fused
kernel per step does the same work without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from isthmus.spec.run import TrainSpec

_ops = torch.ops.aten
_EPS = 1e-8
_FUSED_DEVICES = ("cpu", "cuda")


class Optimizer(Protocol):
    def step(self, lr: float) -> None:
        """Update every parameter from its `.grad`, at this learning rate."""
        ...

    def reset(self) -> None:
        """Forget the moments, as if no step had been done."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The live moments by name (not copies): what a checkpoint keeps."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take moments from the `state()` of a like optimizer. Raises KeyError for a missing one."""
        ...


def make_optimizer(spec: TrainSpec, named: Iterable[tuple[str, nn.Parameter]]) -> "Optimizer":
    if spec.optimizer == "sgd":
        return Sgd(named, spec.weight_decay)
    return AdamW(named, spec.betas, spec.weight_decay)


def split_decay(named: Sequence[tuple[str, nn.Parameter]]) -> tuple[list[int], list[int]]:
    """Indices of the parameters that weight decay applies to (matrices) and of the others (gains, biases)."""
    decayed = [i for i, (_, parameter) in enumerate(named) if parameter.dim() >= 2]
    others = [i for i, (_, parameter) in enumerate(named) if parameter.dim() < 2]
    return decayed, others


class AdamW:
    """Adam with decoupled weight decay on matrices (arXiv 1711.05101). Moments have the parameters' type."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], betas: tuple[float, float], weight_decay: float
    ):
        named = list(named)
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self._betas = betas
        self._first = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self._parameters]
        self._second = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self._parameters]
        self._steps = torch.zeros((), dtype=torch.float32, device=self._parameters[0].device)
        decayed, others = split_decay(named)
        self._groups = [(decayed, weight_decay), (others, 0.0)]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self._steps += 1
        for indices, weight_decay in self._groups:
            if indices:
                self._step_group(indices, weight_decay, lr)

    def _step_group(self, indices: list[int], weight_decay: float, lr: float) -> None:
        parameters = [self._parameters[i] for i in indices]
        gradients = gradients_of(parameters)
        first, second = [self._first[i] for i in indices], [self._second[i] for i in indices]
        if parameters[0].device.type not in _FUSED_DEVICES:
            self._step_by_hand((parameters, gradients, first, second), weight_decay, lr)
            return
        _ops._fused_adamw_(
            parameters, gradients, first, second, [], [self._steps] * len(parameters),
            lr=lr, beta1=self._betas[0], beta2=self._betas[1], weight_decay=weight_decay, eps=_EPS,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def _step_by_hand(
        self,
        tensors: tuple[Sequence[Tensor], Sequence[Tensor], list[Tensor], list[Tensor]],
        decay: float,
        lr: float,
    ) -> None:
        """The same update on chips whose backend lacks the fused kernel."""
        parameters, gradients, first, second = tensors
        beta1, beta2 = self._betas
        count = float(self._steps)
        _ops._foreach_mul_(parameters, 1.0 - lr * decay)
        _ops._foreach_lerp_(first, gradients, 1.0 - beta1)
        _ops._foreach_mul_(second, beta2)
        _ops._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        scale = _ops._foreach_sqrt(second)
        _ops._foreach_div_(scale, (1.0 - beta2**count) ** 0.5)
        _ops._foreach_add_(scale, _EPS)
        _ops._foreach_addcdiv_(parameters, first, scale, -lr / (1.0 - beta1**count))

    def reset(self) -> None:
        self._steps.zero_()
        for moment in (*self._first, *self._second):
            moment.zero_()

    def state(self) -> dict[str, Tensor]:
        first = {f"first.{name}": moment for name, moment in zip(self._names, self._first, strict=True)}
        second = {f"second.{name}": moment for name, moment in zip(self._names, self._second, strict=True)}
        return {"steps": self._steps, **first, **second}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class Sgd:
    """Plain gradient descent; weight decay is added to the gradient, of matrices only."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], weight_decay: float):
        named = list(named)
        decayed, others = split_decay(named)
        self._groups = [
            ([named[i][1] for i in decayed], weight_decay),
            ([named[i][1] for i in others], 0.0),
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for parameters, weight_decay in self._groups:
            if not parameters:
                continue
            gradients = gradients_of(parameters)
            if weight_decay:
                gradients = _ops._foreach_add(gradients, parameters, alpha=weight_decay)
            _ops._foreach_add_(parameters, gradients, alpha=-lr)

    def reset(self) -> None:
        """There are no moments."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """There are no moments."""


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Each parameter's gradient; zeros where backward gave none (an expert that no token was routed to)."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scale the whole gradient to the norm `largest` if it is longer (0: never); returns its L2 norm before.

    A norm that is not finite is returned, and nothing is scaled: the caller must not step.
    """
    gradients = gradients_of(parameters)
    norm = float(torch.linalg.vector_norm(torch.stack(_ops._foreach_norm(gradients))))
    if largest > 0 and norm > largest and norm != float("inf"):
        _ops._foreach_mul_(gradients, largest / norm)
    return norm
