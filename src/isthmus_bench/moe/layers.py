"""One MoE layer of ours and of each peer, with the same weights, as a function of its input.

A peer's interpreter needs torch and the peer, nothing of ours.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    num_experts: int
    hidden: int = 512
    ffn: int = 1024
    tokens: int = 4096
    top_k: int = 2
    gate_norm: float = 0.0
    """Ours alone."""
    fp32_masters: bool = False
    """Ours alone: parameters of the experts in fp32, cast in every pass, as in training. Otherwise bf16."""


Layer = tuple[nn.Module, Callable[[Tensor], Tensor]]
"""Its parameters, and x [N, D] bf16 -> y [N, D]."""
Weights = tuple[Tensor, Tensor, Tensor]
"""router [E, D], gate_up [E, 2F, D], down [E, D, F], fp32."""


def weights(shape: Shape) -> Weights:
    draws = torch.Generator().manual_seed(1)
    E, D, F = shape.num_experts, shape.hidden, shape.ffn
    sizes = (E, D), (E, 2 * F, D), (E, D, F)
    router, gate_up, down = (0.02 * torch.randn(size, generator=draws, device="cpu") for size in sizes)
    return router, gate_up, down


def build(name: str, shape: Shape, device: str) -> Layer:
    with torch.device(device):
        module, call = _BUILDERS[name](shape)
    return module.to(device), call


def isthmus(shape: Shape) -> Layer:
    from isthmus.models.moe import MoE
    from isthmus.spec.model import ModelSpec

    spec = ModelSpec(
        hidden_size=shape.hidden, ffn_size=shape.ffn, num_experts=shape.num_experts, top_k=shape.top_k,
        gate_norm=shape.gate_norm,
    )  # fmt: skip
    layer = MoE(spec, 0)
    router, gate_up, down = weights(shape)
    with torch.no_grad():
        layer.router.weight.copy_(router)
        for expert, parameters in enumerate(layer.experts):
            parameters.gate_up.copy_(gate_up[expert].t())  # pyright: ignore
            parameters.down.copy_(down[expert].t())  # pyright: ignore
    if not shape.fp32_masters:
        layer.experts.bfloat16()
    return layer, lambda x: layer(x[None]).y[0]


def _qwen(shape: Shape, implementation: str) -> Layer:
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=shape.hidden, moe_intermediate_size=shape.ffn, num_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k, norm_topk_prob=True,
    )  # fmt: skip
    config._experts_implementation = implementation
    layer: Any = Qwen3MoeSparseMoeBlock(config).bfloat16()
    for parameter, value in zip(
        (layer.gate.weight, layer.experts.gate_up_proj, layer.experts.down_proj), weights(shape), strict=True
    ):
        parameter.data.copy_(value)

    def call(x: Tensor) -> Tensor:
        y = layer(x[None])
        return (y[0] if isinstance(y, tuple) else y)[0]

    return layer, call


def hf_grouped(shape: Shape) -> Layer:
    return _qwen(shape, "grouped_mm")


def hf_eager(shape: Shape) -> Layer:
    return _qwen(shape, "eager")


def hf_grouped_compiled(shape: Shape) -> Layer:
    layer, call = _qwen(shape, "grouped_mm")
    return layer, torch.compile(call, dynamic=True)


def torchtitan(shape: Shape) -> Layer:
    """Its expert-parallel kernels want triton, which a CPU has not: that module is left out."""
    for module in ("minimal_async_ep", "minimal_async_ep.kernels"):
        sys.modules.setdefault(f"torchtitan.distributed.{module}", MagicMock())
    from torchtitan.models.common import moe  # pyright: ignore[reportMissingImports]
    from torchtitan.models.common.linear import Linear  # pyright: ignore[reportMissingImports]
    from torchtitan.models.common.token_dispatcher import (  # pyright: ignore[reportMissingImports]
        LocalTokenDispatcher,
    )

    E, D, F, K = shape.num_experts, shape.hidden, shape.ffn, shape.top_k
    router = _config(
        moe.TokenChoiceTopKRouter, dim=D, num_experts=E, top_k=K, score_func="softmax", route_norm=True,
        route_scale=1.0, num_expert_groups=None, num_limited_groups=None,
        gate=_config(Linear, in_features=D, out_features=E, bias=False),
    )  # fmt: skip
    experts = _config(
        moe.RoutedExperts, inner_experts=_config(moe.GroupedExperts, dim=D, hidden_dim=F, num_experts=E),
        token_dispatcher=_config(LocalTokenDispatcher, num_experts=E, top_k=K, score_before_experts=False),
    )  # fmt: skip
    config = _config(moe.MoE, num_experts=E, router=router, load_balance_coeff=1e-3, routed_experts=experts)
    layer = config.build()
    values = weights(shape)
    inner = layer.routed_experts.inner_experts
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "gate" in name:
                parameter.copy_(values[0])
        inner.w1_EFD.copy_(values[1][:, :F])
        inner.w3_EFD.copy_(values[1][:, F:])
        inner.w2_EDF.copy_(values[2])
    layer = layer.bfloat16()
    for buffer in layer.buffers():
        buffer.data = torch.zeros_like(buffer, dtype=torch.float32)
    return layer, lambda x: layer(x[None])[0]


def _config(owner: Any, **values: Any) -> Any:
    """Its configuration, with those of the values that this version knows."""
    known = {field.name for field in fields(owner.Config)}
    return owner.Config(**{name: value for name, value in values.items() if name in known})


_BUILDERS: dict[str, Callable[[Shape], Layer]] = {
    "isthmus": isthmus,
    "hf_grouped": hf_grouped,
    "hf_eager": hf_eager,
    "hf_grouped_compiled": hf_grouped_compiled,
    "torchtitan": torchtitan,
}
