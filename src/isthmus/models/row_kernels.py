"""The memory-bound parts of an expert layer: in C where a compiler is at hand, in PyTorch everywhere.

Both do the same; the C ones read and write each row once. Tensors are contiguous; weights are fp32.

Shape suffixes: as in `dispatch`; D hidden, F width of an expert.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from isthmus.models import compiled
from isthmus.models.layers import swiglu, swiglu_backward

SOURCE = Path(__file__).with_suffix(".c")
VARIABLE = "ISTHMUS_COMPILED"
"""Where it is 0 in the environment, nothing is compiled."""
_SUFFIX = {torch.bfloat16: "bf16", torch.float32: "fp32"}


class RowKernels(Protocol):
    name: str

    def gather(self, x_ND: Tensor, token_R: Tensor, out_RD: Tensor) -> None:
        """x[token], zeros where that is -1."""
        ...

    def swiglu(self, gate_up_R2F: Tensor, weight_R: Tensor, out_RF: Tensor) -> None:
        """weight * silu(gate) * up."""
        ...

    def swiglu_backward(
        self, grad_RF: Tensor, gate_up_R2F: Tensor, weight_R: Tensor, out: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """From the gradient of `swiglu`'s output. May overwrite `grad_RF`.

        Args:
            out: gradients of gate_up [R, 2F] and of weight [R], and `swiglu`'s output [R, F] once more.
        """
        ...

    def combine(self, x_RD: Tensor, row_NK: Tensor, out_ND: Tensor) -> None:
        """sum_k x[row_nk]."""
        ...

    def transpose(self, x: Tensor, out: Tensor) -> None: ...


def kernels_for(x: Tensor) -> RowKernels:
    """The fastest for tensors like this one."""
    if x.device.type == "cpu" and x.dtype in _SUFFIX and os.environ.get(VARIABLE) != "0":
        return _compiled(x.dtype) or TorchKernels()
    return TorchKernels()


@functools.cache
def _compiled(dtype: torch.dtype) -> "CompiledKernels | None":
    library = compiled.load(SOURCE)
    return CompiledKernels(library, dtype) if library else None


class CompiledKernels:
    name = "compiled"

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype):
        suffix = _SUFFIX[dtype]
        self._gather = _function(library, f"gather_{suffix}", pointers=3, numbers=2)
        self._swiglu = _function(library, f"swiglu_{suffix}", pointers=3, numbers=2)
        self._swiglu_backward = _function(library, f"swiglu_backward_{suffix}", pointers=6, numbers=2)
        self._combine = _function(library, f"combine_{suffix}", pointers=3, numbers=3)
        self._transpose = _function(library, "transpose_bf16", pointers=2, numbers=2)

    def gather(self, x_ND: Tensor, token_R: Tensor, out_RD: Tensor) -> None:
        self._gather(*_pointers(x_ND, token_R, out_RD), *out_RD.shape, torch.get_num_threads())

    def swiglu(self, gate_up_R2F: Tensor, weight_R: Tensor, out_RF: Tensor) -> None:
        assert weight_R.dtype == torch.float32
        self._swiglu(*_pointers(gate_up_R2F, weight_R, out_RF), *out_RF.shape, torch.get_num_threads())

    def swiglu_backward(
        self, grad_RF: Tensor, gate_up_R2F: Tensor, weight_R: Tensor, out: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        grad_gate_up, grad_weight, activation = out
        pointers = _pointers(grad_RF, gate_up_R2F, weight_R, grad_gate_up, activation, grad_weight)
        self._swiglu_backward(*pointers, *grad_RF.shape, torch.get_num_threads())

    def combine(self, x_RD: Tensor, row_NK: Tensor, out_ND: Tensor) -> None:
        pointers = _pointers(x_RD, row_NK, out_ND)
        self._combine(*pointers, *out_ND.shape, row_NK.shape[1], torch.get_num_threads())

    def transpose(self, x: Tensor, out: Tensor) -> None:
        assert x.dtype == torch.bfloat16
        self._transpose(*_pointers(x, out), *x.shape, torch.get_num_threads())


def _pointers(*tensors: Tensor) -> list[int]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [tensor.data_ptr() for tensor in tensors]


def _function(library: ctypes.CDLL, name: str, pointers: int, numbers: int) -> Any:
    """A function of so many pointers, sizes, and the number of threads. The GIL is free meanwhile."""
    function = library[name]
    function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * numbers + [ctypes.c_int]
    function.restype = None
    return function


class TorchKernels:
    name = "torch"

    def gather(self, x_ND: Tensor, token_R: Tensor, out_RD: Tensor) -> None:
        torch.index_select(x_ND, 0, token_R.clamp_min(0), out=out_RD)
        out_RD.masked_fill_((token_R < 0)[:, None], 0.0)

    def swiglu(self, gate_up_R2F: Tensor, weight_R: Tensor, out_RF: Tensor) -> None:
        torch.mul(swiglu(gate_up_R2F), weight_R[:, None].to(out_RF.dtype), out=out_RF)

    def swiglu_backward(
        self, grad_RF: Tensor, gate_up_R2F: Tensor, weight_R: Tensor, out: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        grad_gate_up, grad_weight, out_RF = out
        weight_R1 = weight_R[:, None].to(grad_RF.dtype)
        weighted_RF = torch.mul(grad_RF, weight_R1, out=out_RF)
        _, unweighted_RF = swiglu_backward(weighted_RF, gate_up_R2F, grad_gate_up)
        torch.sum(grad_RF.mul_(unweighted_RF), -1, dtype=grad_weight.dtype, out=grad_weight)
        torch.mul(unweighted_RF, weight_R1, out=out_RF)

    def combine(self, x_RD: Tensor, row_NK: Tensor, out_ND: Tensor) -> None:
        out_ND.copy_(functional.embedding_bag(row_NK, x_RD, mode="sum"))

    def transpose(self, x: Tensor, out: Tensor) -> None:
        out.copy_(x.t())
