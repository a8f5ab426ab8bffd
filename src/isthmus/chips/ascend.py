"""Huawei Ascend NPUs, by torch_npu and HCCL.

Written against torch_npu's documented interface, which mirrors torch.cuda; not yet run on the hardware.
"""

import importlib
from typing import Any

import torch

from isthmus.chips.chip import DtypeChoice, Facts, choose_dtype
from isthmus.errors import InputError


class Ascend:
    family = "ascend"
    backend = "hccl"

    def device(self, index: int) -> str:
        return f"npu:{index}"

    def probe(self) -> Facts:
        npu, version = _require()
        return Facts(
            family=self.family,
            model=npu.get_device_name(0),
            count=npu.device_count(),
            memory_bytes=self.memory_bytes(),
            features=[],
            library=f"torch {torch.__version__}, torch_npu {version}",
        )

    def memory_bytes(self, index: int = 0) -> int:
        npu, _ = _require()
        return npu.get_device_properties(index).total_memory

    def seed(self, seed: int) -> None:
        npu, _ = _require()
        torch.manual_seed(seed)
        npu.manual_seed_all(seed)

    def best_dtype(self) -> DtypeChoice:
        npu, _ = _require()
        size = 4096
        a = torch.ones(size, size, device="npu")
        a_bf16 = a.bfloat16()

        def run(x: torch.Tensor) -> None:
            torch.mm(x, x)
            npu.synchronize()

        return choose_dtype(2.0 * size**3, lambda: run(a), lambda: run(a_bf16))

    def mark(self) -> Any:
        npu, _ = _require()
        event: Any = npu.Event(enable_timing=True)
        event.record()
        return event

    def synchronize(self) -> None:
        npu, _ = _require()
        npu.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000

    def fixed_bytes(self) -> int:
        npu, _ = _require()
        free, total = npu.mem_get_info()
        return max(0, total - free - npu.memory_reserved())

    def reset_peak(self) -> int:
        npu, _ = _require()
        npu.reset_peak_memory_stats()
        return npu.memory_allocated()

    def peak_bytes(self) -> int:
        npu, _ = _require()
        return npu.max_memory_allocated()


def _require() -> tuple[Any, str]:
    """(torch.npu, version of torch_npu). Importing torch_npu is what registers the device and HCCL."""
    try:
        torch_npu = importlib.import_module("torch_npu")
    except ImportError as error:
        raise InputError(
            "torch_npu is not installed, so Ascend chips cannot be used",
            where="chip ascend",
            hint="install CANN and the torch_npu release that matches "
            f"torch {torch.__version__}; or write `cpu` in the fleet",
        ) from error
    npu: Any = torch.npu  # pyright: ignore[reportAttributeAccessIssue]
    if not npu.is_available():
        raise InputError(
            "no Ascend device can be used here",
            where="chip ascend",
            hint="check `npu-smi info` and ASCEND_RT_VISIBLE_DEVICES, and source CANN's set_env.sh",
        )
    return npu, torch_npu.__version__


chip = Ascend()
