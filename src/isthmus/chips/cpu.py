"""CPUs: gloo between ranks, one rank per process and as many threads as it may run on cores."""

import os
import platform
from pathlib import Path

import torch

from isthmus.chips.chip import DtypeChoice, Facts, choose_dtype

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
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min(machine, _cgroup_limit(Path("/sys/fs/cgroup")) or machine)

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def best_dtype(self) -> DtypeChoice:
        size = 384
        a, b = torch.ones(size, size), torch.ones(size, size)
        a_bf16, b_bf16 = a.bfloat16(), b.bfloat16()
        return choose_dtype(2.0 * size**3, lambda: a @ b, lambda: a_bf16 @ b_bf16)


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


def _cgroup_limit(root: Path) -> int | None:
    """Memory limit of the container, cgroup v2 or v1; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


chip = Cpu()
