"""NVIDIA GPUs, by torch.cuda and NCCL."""

from typing import Any

import torch

from isthmus.chips.chip import DtypeChoice, Facts, choose_dtype
from isthmus.errors import InputError


class Cuda:
    family = "cuda"
    backend = "nccl"

    def device(self, index: int) -> str:
        return f"cuda:{index}"

    def probe(self) -> Facts:
        _require()
        major, minor = torch.cuda.get_device_capability(0)
        return Facts(
            family=self.family,
            model=torch.cuda.get_device_name(0),
            count=torch.cuda.device_count(),
            memory_bytes=self.memory_bytes(),
            features=[f"sm_{major}{minor}"],
            library=f"torch {torch.__version__}, CUDA {torch.version.cuda}",
        )

    def memory_bytes(self, index: int = 0) -> int:
        _require()
        return torch.cuda.get_device_properties(index).total_memory

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)

    def best_dtype(self) -> DtypeChoice:
        _require()
        size = 4096
        a = torch.ones(size, size, device="cuda")
        a_bf16 = a.bfloat16()

        def run(x: torch.Tensor) -> None:
            torch.mm(x, x)
            torch.cuda.synchronize()

        return choose_dtype(2.0 * size**3, lambda: run(a), lambda: run(a_bf16))

    def mark(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000

    def fixed_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info()
        return max(0, total - free - torch.cuda.memory_reserved())

    def reset_peak(self) -> int:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated()


def _require() -> None:
    if not torch.cuda.is_available():
        raise InputError(
            "no CUDA device can be used here",
            where="chip cuda",
            hint="check `nvidia-smi` and CUDA_VISIBLE_DEVICES, and that torch is a CUDA build "
            f"(this is {torch.__version__}); or write `cpu` in the fleet",
        )


chip = Cuda()
