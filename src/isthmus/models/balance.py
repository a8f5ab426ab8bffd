"""What keeps experts evenly loaded: losses on the gate, and a capacity above which choices are dropped.

Shape suffixes: L MoE layers, and as in `router`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.models.router import Choice
from isthmus.spec.balance import BalanceSpec


@dataclass(frozen=True)
class Balance:
    """Of one training pass. Passes without one (evaluation, generation) have no loss and drop nothing."""

    spec: BalanceSpec
    coef_L: Tensor
    """Weight of each layer's balance loss, fp32."""
    share_LE: Tensor | None = None
    """Share of all choices that fell on each expert in the whole batch before this one, fp32; None: not known
    yet, or not asked for."""


@dataclass(frozen=True)
class Routing:
    """What a router did with the tokens of one pass, of one layer or stacked over all. Sums over passes and
    ranks are those of the whole batch."""

    load: Tensor
    """Choices that fell on each expert, dropped ones included, [..., E] int64."""
    dropped: Tensor
    """Of them, those above the capacity; where none is set above the nominal one, and none is dropped."""
    entropy: Tensor
    """Entropy of the gate's probabilities, summed over tokens, nats, [...] fp32."""


def stack(layers: Sequence[Routing | None]) -> Routing | None:
    """One routing of all layers; None if they had no balance."""
    seen = [layer for layer in layers if layer is not None]
    if not seen:
        return None
    fields = zip(*((layer.load, layer.dropped, layer.entropy) for layer in seen), strict=True)
    return Routing(*(torch.stack(field) for field in fields))


def mean_probability_loss(probs_NE: Tensor) -> Tensor:
    """sum_j (1/n - mean_i g_ij)^2: mean gate probabilities alone (Skywork-MoE, arXiv 2406.06563, eq. 4)."""
    mean_E = probs_NE.mean(0)
    return (mean_E - 1.0 / mean_E.shape[0]).square().sum()


def switch_loss(probs_NE: Tensor, share_E: Tensor) -> Tensor:
    """n sum_j f_j P_j, with f the share of choices, P the mean probability (arXiv 2101.03961, eq. 4)."""
    return probs_NE.shape[1] * (share_E * probs_NE.mean(0)).sum()


def z_loss(logits_NE: Tensor) -> Tensor:
    """Mean squared logsumexp of the router's logits (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return logits_NE.logsumexp(-1).square().mean()


def gate_loss(balance: Balance, layer: int, probs_NE: Tensor, logits_NE: Tensor, load_E: Tensor) -> Tensor:
    """The weighted losses of MoE layer number `layer`, fp32 scalar."""
    spec = balance.spec
    total = probs_NE.new_zeros(())
    if spec.loss == "skywork":
        total = balance.coef_L[layer] * mean_probability_loss(probs_NE)
    elif spec.loss == "switch":
        share_E = load_E / load_E.sum() if balance.share_LE is None else balance.share_LE[layer]
        total = balance.coef_L[layer] * switch_loss(probs_NE, share_E)
    if spec.z_loss:
        total = total + spec.z_loss * z_loss(logits_NE)
    return total


def observe(choice: Choice, probs_NE: Tensor, spec: BalanceSpec) -> Routing:
    """What one router did with one pass's tokens."""
    load_E = torch.bincount(choice.expert_NK.flatten(), minlength=probs_NE.shape[1])
    capacity = _capacity(spec.capacity or spec.nominal_capacity, choice.expert_NK.numel(), probs_NE.shape[1])
    entropy = torch.special.entr(probs_NE.detach()).sum()
    return Routing(load_E, (load_E - capacity).clamp_(min=0), entropy)


def _capacity(factor: float, num_choices: int, num_experts: int) -> int:
    """Choices an expert takes out of `num_choices`."""
    return math.ceil(factor * num_choices / num_experts)


def keep_within_capacity(choice: Choice, spec: BalanceSpec) -> Tensor | None:
    """False for each choice above its expert's capacity, [N, K] bool; None where there is no capacity.

    An expert keeps its highest scores, equal ones by token; or, by position, the first ones in the batch.
    """
    if not spec.capacity:
        return None
    flat = choice.expert_NK.flatten()
    places = torch.arange(flat.numel(), device=flat.device)
    order = places
    if spec.drop == "score":
        score_NK = choice.scores_NE.detach().gather(1, choice.expert_NK)
        order = torch.sort(score_NK.flatten(), descending=True, stable=True).indices
    by_expert, within = torch.sort(flat[order], stable=True)
    rank = places - torch.searchsorted(by_expert, by_expert)
    kept = torch.empty_like(flat, dtype=torch.bool)
    kept[order[within]] = rank < _capacity(spec.capacity, flat.numel(), choice.scores_NE.shape[1])
    return kept.view_as(choice.expert_NK)
