"""Matrix products by size and precision, and the bandwidth of memory, while all ranks do the same."""

from collections.abc import Callable, Iterator

import torch

from isthmus.chips import Chip
from isthmus.planner.probed.profile import MatmulRate
from isthmus.train.probe.timing import time_work

SHAPES = [
    (256, 256, 256), (1024, 256, 1024), (512, 512, 512), (2048, 512, 2048), (1024, 1024, 1024),
    (4096, 1024, 1024), (4096, 1024, 4096), (4096, 4096, 1024), (4096, 4096, 4096), (8192, 4096, 4096),
    (8192, 4096, 14336), (8192, 8192, 8192), (16384, 8192, 8192),
]  # fmt: skip
"""(rows, inner, columns), from those of a toy to those of the largest models. A slow chip gets the first."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STREAM_BYTES = 256 << 20
"""Of each of three buffers: beyond any cache."""


def matmul_rates(chip: Chip, device: str, longest_s: float) -> Iterator[MatmulRate]:
    """Of each shape in each precision, as long as one product takes less than `longest_s`.

    Rows and columns are as in `functional.linear`: the right side is stored transposed.
    """
    for precision, dtype in DTYPES.items():
        best_tflops = 0.0
        for rows, inner, columns in SHAPES:
            flops = 2.0 * rows * inner * columns
            if best_tflops and flops / (best_tflops * 1e12) > longest_s:
                break
            seconds, spread = time_work(chip, _product((rows, inner, columns), dtype, device), 5 * longest_s)
            tflops = flops / seconds / 1e12
            best_tflops = max(best_tflops, tflops)
            yield MatmulRate(
                rows=rows, inner=inner, columns=columns, precision=precision, tflops=tflops, spread=spread
            )


def _product(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Callable[[], torch.Tensor]:
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return lambda: torch.mm(left, right.t(), out=out)


def memory_gb_s(chip: Chip, device: str, budget_s: float) -> float:
    """By the triad a = b + s c of STREAM (McCalpin, 1995): 12 bytes are moved for each fp32 value of a.

    Cache lines that a write fetches first are not counted, as there.
    """
    size = min(STREAM_BYTES, chip.memory_bytes() // 64) // 4
    b, c = torch.ones(size, device=device), torch.ones(size, device=device)
    a = torch.empty_like(b)
    seconds, _ = time_work(chip, lambda: torch.add(b, c, alpha=3.0, out=a), budget_s)
    return 12 * size / seconds / 1e9
