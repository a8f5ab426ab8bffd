"""Weights of the balance losses, and biases of the routers, that follow what the experts were given.

Shape suffixes: L MoE layers, E experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.models.balance import Balance, Routing
from isthmus.models.transformer import Transformer
from isthmus.spec.balance import BalanceSpec


@dataclass(frozen=True)
class ExpertStats:
    """What all experts were given in one step of all ranks, and what was asked of them."""

    load_LE: Tensor
    """Choices that fell on each expert, dropped ones included, fp32 on the host."""
    dropped_LE: Tensor
    """Of them, those above the capacity (or the nominal one, where none is dropped)."""
    entropy_L: Tensor
    """Mean entropy of the gate's probabilities, nats."""
    coef_L: Tensor
    """Weight of the balance loss in this step."""
    drops: bool
    """Whether what is above the capacity was dropped indeed."""

    @property
    def worked_tokens(self) -> Tensor:
        """Tokens each expert worked on, [L, E]."""
        return self.load_LE - self.dropped_LE if self.drops else self.load_LE


def drop_rate(load_LE: Tensor, dropped_LE: Tensor) -> Tensor:
    """Share of each layer's choices that were dropped, [L]."""
    return dropped_LE.sum(-1) / load_LE.sum(-1).clamp(min=1)


def adapt(coef_L: Tensor, drop_rate_L: Tensor, spec: BalanceSpec) -> Tensor:
    """The next step's coefficients: beta c + (1 - beta) min(xi d, alpha_max) (arXiv 2406.06563, eq. 7-9)."""
    wanted_L = (spec.adaptive_gain * drop_rate_L).clamp(max=spec.adaptive_max)
    return spec.adaptive_decay * coef_L + (1 - spec.adaptive_decay) * wanted_L


class Balancer:
    """The state of a model's balance between steps, alike on all ranks: a checkpoint keeps it.

    One small vector holds what all layers have to tell; its sum over micro-batches and ranks is the batch's:
    `zeros`, `add` for each micro-batch, an all-reduce, then `update`.
    """

    def __init__(self, model: Transformer, spec: BalanceSpec):
        self._spec, self._top_k = spec, model.spec.top_k
        self._layers, self._experts = len(model.spec.moe_layers), model.spec.num_experts
        device = model.head_weight.device
        self._biases = [p for name, p in model.named_parameters() if name.endswith("router.bias")]
        coef = 0.0 if spec.loss == "none" else spec.coef
        self._coef_L = torch.full((self._layers,), coef, device=device)
        self._load_LE = torch.zeros(self._layers, self._experts, device=device)

    @property
    def now(self) -> Balance:
        """What the passes of this step are to be balanced by."""
        is_known = self._spec.scope == "global" and bool(self._load_LE.any())
        share_LE = self._load_LE / self._load_LE.sum(-1, keepdim=True) if is_known else None
        return Balance(self._spec, self._coef_L, share_LE)

    def zeros(self) -> Tensor:
        return torch.zeros(self._layers * (2 * self._experts + 1), device=self._coef_L.device)

    def add(self, sums: Tensor, routing: Routing | None) -> None:
        if routing is not None:
            parts = (routing.load, routing.dropped, routing.entropy)
            sums += torch.cat([part.flatten().to(sums) for part in parts])

    @torch.no_grad()
    def update(self, sums: Tensor) -> ExpertStats:
        """Takes the whole batch's sums; the next step's coefficients and biases follow from them."""
        size = self._layers * self._experts
        load_LE, dropped_LE = sums[: 2 * size].view(2, self._layers, self._experts).clone()
        tokens_L = load_LE.sum(-1) / self._top_k
        coef_L = self._coef_L
        if self._spec.adaptive and load_LE.any():
            self._coef_L = adapt(coef_L, drop_rate(load_LE, dropped_LE), self._spec)
        if self._spec.bias_rate:
            for bias, load_E in zip(self._biases, load_LE, strict=True):
                bias += self._spec.bias_rate * torch.sign(load_E.mean() - load_E)
        self._load_LE = load_LE
        entropy_L = sums[2 * size :] / tokens_L.clamp(min=1)
        drops = self._spec.capacity > 0
        return ExpertStats(load_LE.cpu(), dropped_LE.cpu(), entropy_L.cpu(), coef_L.cpu(), drops)

    def state(self) -> dict[str, Tensor]:
        """By name; empty for a model without MoE layers."""
        return {"balance.coef": self._coef_L, "balance.load": self._load_LE} if self._layers else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError for a missing one."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
