"""CPUs: gloo between ranks, one rank per process and as many threads as it may run on cores."""

import contextlib
import os
import platform
import resource
import time
from pathlib import Path

import torch

from isthmus.chips.chip import DtypeChoice, Facts, choose_dtype
from isthmus.chips.host import memory_limit

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")


class Cpu:
    family = "cpu"
    backend = "gloo"

    def device(self, index: int) -> str:
        return "cpu"

    def probe(self) -> Facts:
        model, features = _cpuinfo(Path("/proc/cpuinfo"))
        return Facts(
            family=self.family,
            model=model,
            count=_usable_cores(),
            memory_bytes=self.memory_bytes(),
            features=features,
            library=f"torch {torch.__version__}",
        )

    def memory_bytes(self, index: int = 0) -> int:
        return memory_limit()

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def best_dtype(self) -> DtypeChoice:
        size = 384
        a, b = torch.ones(size, size), torch.ones(size, size)
        a_bf16, b_bf16 = a.bfloat16(), b.bfloat16()
        return choose_dtype(2.0 * size**3, lambda: a @ b, lambda: a_bf16 @ b_bf16)

    def mark(self) -> float:
        return time.perf_counter()

    def synchronize(self) -> None:
        """Nothing runs on behind the caller's back."""

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def fixed_bytes(self) -> int:
        return _status_bytes("VmRSS") or self.peak_bytes()

    def reset_peak(self) -> int:
        with contextlib.suppress(OSError):  # without it the peak is that since the process began
            Path("/proc/self/clear_refs").write_text("5")
        return self.fixed_bytes()

    def peak_bytes(self) -> int:
        return _status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_bytes(field: str) -> int:
    """A size in /proc/self/status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _usable_cores() -> int:
    """Cores in this process's affinity mask, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(path: Path) -> tuple[str, list[str]]:
    """(model name, those of _FEATURES it lists); the platform's word where there is no such file."""
    fallback = platform.processor() or platform.machine()
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return fallback, []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", fallback), [name for name in _FEATURES if name in flags]


chip = Cpu()
