"""Decoder-only transformer: RMSNorm, RoPE, grouped-query attention, SwiGLU, dense or MoE per layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.errors import InputError
from isthmus.models.attention import Attention, KVCache, LayerCache, Step, find_borders
from isthmus.models.balance import Balance, Routing, stack
from isthmus.models.layers import FeedForward, Linear, RMSNorm, rope_tables
from isthmus.models.loss import IGNORE, linear_cross_entropy
from isthmus.models.moe import MoE, MoEOutput
from isthmus.spec.model import ModelSpec


@dataclass(frozen=True)
class Output:
    """Of one forward pass: with targets the losses, without them (losses zero) the logits."""

    loss: Tensor
    """ce_loss + aux_loss: the one to call backward on; the two parts are detached."""
    ce_loss: Tensor
    """Mean cross entropy over the targets that count, nats per token."""
    aux_loss: Tensor
    """Weighted balance and z losses, summed over the MoE layers; 0 without a balance."""
    logits: Tensor | None
    """[B, T, V]; None with targets, as the loss never holds them all."""
    expert_tokens: Tensor
    """Tokens each expert worked on, [num_moe_layers, num_experts] int64."""
    num_targets: Tensor
    """Targets that counted, int64 scalar: the weight of this batch in a mean over several."""
    routing: Routing | None
    """Of all MoE layers, stacked; None without a balance, or without MoE layers."""


class Block(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int):
        super().__init__()
        self.attn_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.attn = Attention(spec, layer)
        self.ffn_norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        if spec.is_moe_layer(layer):
            self.moe = MoE(spec, spec.moe_layers.index(layer))
        else:
            self.ffn = FeedForward(spec.hidden_size, spec.ffn_size)
        self.is_moe = spec.is_moe_layer(layer)

    def forward(self, x_BTD: Tensor, step: Step, balance: Balance | None) -> tuple[Tensor, MoEOutput | None]:
        """The new residual stream, and what the experts did where the layer is MoE."""
        x_BTD = x_BTD + self.attn(self.attn_norm(x_BTD, step.dtype), step)
        normed = self.ffn_norm(x_BTD, step.dtype)
        if not self.is_moe:
            return x_BTD + self.ffn(normed), None
        routed = self.moe(normed, balance)
        return x_BTD + routed.y, routed


class Transformer(nn.Module):
    """Parameters are fp32, uninitialised (see `init_weights`); matmuls run in `compute_dtype`."""

    def __init__(self, spec: ModelSpec, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        _check(spec)
        self.spec = spec
        self.compute_dtype = compute_dtype
        self.embed = nn.Module()
        self.embed.weight = nn.Parameter(torch.empty(spec.vocab_size, spec.hidden_size))
        self.layers = nn.ModuleList(Block(spec, layer) for layer in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        if not spec.tied_head:
            self.head = Linear(spec.hidden_size, spec.vocab_size)

    @property
    def head_weight(self) -> nn.Parameter:
        """[V, D]: the embedding where the head is tied."""
        return self.embed.weight if self.spec.tied_head else self.head.weight  # pyright: ignore

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        doc_ids_BT: Tensor | None = None,
        balance: Balance | None = None,
    ) -> Output:
        """Logits, or with targets the loss.

        Tokens, targets and document numbers are integers. Targets of -100 do not count, nor do those
        that lie in another document than their token. `doc_ids_BT` may have T + 1 columns, as the data
        has: the last one then tells whether the last target still lies in its document. `balance` is for
        training: without it no choice of an expert is dropped.
        """
        length = tokens_BT.shape[1]
        borders = None if doc_ids_BT is None else find_borders(doc_ids_BT[:, :length], self.compute_dtype)
        positions = torch.arange(length, device=tokens_BT.device)
        x_BTD, routed = self._hidden(tokens_BT, self._step(positions, borders=borders), balance)
        aux_loss, expert_tokens, routing = self._gather(routed)
        if targets_BT is None:
            logits = x_BTD @ self.head_weight.to(x_BTD.dtype).t()
            zero, none = aux_loss.new_zeros(()), expert_tokens.new_zeros(())
            return Output(zero, zero, zero, logits, expert_tokens, none, routing)
        targets_BT = _inside_documents(targets_BT.long(), doc_ids_BT)
        ce_loss, count = linear_cross_entropy(x_BTD.flatten(0, 1), self.head_weight, targets_BT.flatten())
        loss = ce_loss + aux_loss
        return Output(loss, ce_loss.detach(), aux_loss.detach(), None, expert_tokens, count, routing)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """Room for `capacity` tokens of each of `batch` sequences, in the compute dtype."""
        shape = (batch, capacity, self.spec.num_kv_heads, self.spec.head_dim)
        device = self.head_weight.device

        def empty() -> Tensor:
            return torch.empty(shape, dtype=self.compute_dtype, device=device)

        return KVCache([LayerCache(empty(), empty()) for _ in self.layers])

    def decode(self, tokens_BT: Tensor, cache: KVCache) -> Tensor:
        """Logits [B, V] after the last token; the tokens join the cache. First the prompt, then singly."""
        start, end = cache.length, cache.length + tokens_BT.shape[1]
        assert end <= cache.capacity, "the cache is full"
        positions = torch.arange(start, end, device=tokens_BT.device)
        x_BTD, _ = self._hidden(tokens_BT, self._step(positions, cache=cache))
        cache.length = end
        return x_BTD[:, -1] @ self.head_weight.to(x_BTD.dtype).t()

    def _step(self, positions_T: Tensor, **options: object) -> Step:
        cos, sin = rope_tables(positions_T, self.spec, self.compute_dtype)
        return Step(cos, sin, self.compute_dtype, **options)  # pyright: ignore[reportArgumentType]

    def _hidden(
        self, tokens_BT: Tensor, step: Step, balance: Balance | None = None
    ) -> tuple[Tensor, list[MoEOutput]]:
        """The normed last hidden state, and what each MoE layer did."""
        x_BTD = nn.functional.embedding(tokens_BT, self.embed.weight)  # pyright: ignore[reportArgumentType]
        routed = []
        for layer in self.layers:
            x_BTD, output = layer(x_BTD, step, balance)
            if output is not None:
                routed.append(output)
        return self.norm(x_BTD, step.dtype), routed

    def _gather(self, routed: list[MoEOutput]) -> tuple[Tensor, Tensor, Routing | None]:
        """(summed losses, tokens per expert, routing) of all MoE layers; zero, empty and None without any."""
        device = self.head_weight.device
        losses = [output.loss for output in routed if output.loss is not None]
        aux_loss = torch.stack(losses).sum() if losses else torch.zeros((), device=device)
        if not routed:
            none = torch.zeros(0, self.spec.num_experts, dtype=torch.int64, device=device)
            return aux_loss, none, None
        expert_tokens = torch.stack([output.expert_tokens for output in routed])
        return aux_loss, expert_tokens, stack([output.routing for output in routed])


def expert_groups(model: Transformer) -> dict[str, int]:
    """Parameter name -> moe_layer * num_experts + expert, for the experts' parameters alone.

    The number is the place of the parameter's tokens in the flattened `Output.expert_tokens`.
    """
    spec = model.spec
    return {
        f"layers.{layer}.moe.experts.{expert}.{matrix}": index * spec.num_experts + expert
        for index, layer in enumerate(spec.moe_layers)
        for expert in range(spec.num_experts)
        for matrix in ("gate_up", "down")
    }


def _inside_documents(targets_BT: Tensor, doc_ids: Tensor | None) -> Tensor:
    """Targets with IGNORE where the next token belongs to another document."""
    if doc_ids is None:
        return targets_BT
    crosses = doc_ids[:, 1:] != doc_ids[:, :-1]
    width = min(crosses.shape[1], targets_BT.shape[1])
    targets_BT = targets_BT.clone()
    targets_BT[:, :width].masked_fill_(crosses[:, :width], IGNORE)
    return targets_BT


def _check(spec: ModelSpec) -> None:
    if spec.num_heads % spec.num_kv_heads:
        raise InputError(
            f"num_heads {spec.num_heads} is not a multiple of num_kv_heads {spec.num_kv_heads}",
            where="model",
            hint="each key-value head serves the same number of query heads",
        )
    if spec.head_dim % 2:
        raise InputError(
            f"head_dim {spec.head_dim} is odd", where="model", hint="RoPE turns pairs; make it even"
        )
    if spec.num_experts and not 1 <= spec.top_k <= spec.num_experts:
        raise InputError(
            f"top_k {spec.top_k} does not fit num_experts {spec.num_experts}",
            where="model",
            hint="choose 1 <= top_k <= num_experts",
        )
