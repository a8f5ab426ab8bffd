"""What isthmus asks of an accelerator family, and how it picks the number format to compute in."""

import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

BF16_MIN_SPEEDUP = 1.5
"""bf16 must beat fp32 by this much on a matmul: the rest of a step does not get faster, and rounds more."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found on this machine."""

    family: str
    model: str
    count: int
    """Chips this process may use. For the CPU: the cores it may run on."""
    memory_bytes: int
    """Of one chip; for the CPU what this process may use of the machine's."""
    features: list[str]
    """Such as 'amx_bf16' or 'sm_90'."""
    library: str
    """Version of what drives it."""


class DtypeChoice(msgspec.Struct, frozen=True, kw_only=True):
    dtype: Literal["fp32", "bf16"]
    fp32_gflops: float
    bf16_gflops: float
    reason: str


class Chip(Protocol):
    """One accelerator family. A file in this folder gives its instance as `chip`."""

    family: str
    backend: str
    """Collective library of torch.distributed: 'gloo', 'nccl', 'hccl'."""

    def device(self, index: int) -> str:
        """Device string of this node's index-th chip, as torch takes it."""
        ...

    def probe(self) -> Facts:
        """Raises InputError with a hint if the family's library or a chip is missing."""
        ...

    def memory_bytes(self, index: int = 0) -> int: ...

    def seed(self, seed: int) -> None:
        """Seed torch's generators on the host and on this family's chips."""
        ...

    def best_dtype(self) -> DtypeChoice:
        """fp32 or bf16, by timing a matmul on this machine, which takes some milliseconds."""
        ...

    def mark(self) -> Any:
        """A moment in the order of this chip's work: after all that was asked of it so far."""
        ...

    def synchronize(self) -> None:
        """Return when everything asked of this process's chip is done."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks. Call `synchronize` after the later one first."""
        ...

    def fixed_bytes(self) -> int:
        """Of the chip's memory, what this process takes beside tensors; on a CPU all that it holds now."""
        ...

    def reset_peak(self) -> int:
        """Bytes held now, by this process on a CPU, in tensors elsewhere; the peak counts from here."""
        ...

    def peak_bytes(self) -> int:
        """Most bytes held at once since `reset_peak`."""
        ...


def choose_dtype(flops: float, run_fp32: Callable[[], object], run_bf16: Callable[[], object]) -> DtypeChoice:
    """Time both, best of several in turn, and take bf16 if it is BF16_MIN_SPEEDUP times as fast.

    Each `run_` does `flops` operations and returns when they are done.
    """
    best_s = {run_fp32: float("inf"), run_bf16: float("inf")}
    for round_ in range(6):
        for run in best_s:
            start_s = time.perf_counter()
            run()
            taken_s = time.perf_counter() - start_s
            if round_ > 0:  # the first round compiles kernels and touches memory
                best_s[run] = min(best_s[run], taken_s)
    fp32_gflops, bf16_gflops = (flops / 1e9 / best_s[run] for run in (run_fp32, run_bf16))
    speedup = bf16_gflops / fp32_gflops
    return DtypeChoice(
        dtype="bf16" if speedup >= BF16_MIN_SPEEDUP else "fp32",
        fp32_gflops=round(fp32_gflops, 1),
        bf16_gflops=round(bf16_gflops, 1),
        reason=f"bf16 runs a matmul at {speedup:.2f}x the speed of fp32; taken from {BF16_MIN_SPEEDUP}x",
    )
