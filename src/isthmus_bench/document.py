"""The one document every benchmark prints: facts of the machine, then ratios and counts with their peers."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import isthmus


class Result(msgspec.Struct, frozen=True):
    id: str
    value: float
    unit: str
    """'ratio', 'count', 'ms', 'tokens/s', ..."""
    peers: dict[str, float] = {}
    """What the figure is set against: 'name version (settings)' -> its value in the same unit."""
    note: str = ""


def document(results: list[Result]) -> dict[str, Any]:
    """One JSON-able document: {"machine": facts, "results": [one object per result]}."""
    return {"machine": machine(), "results": msgspec.to_builtins(results)}


def machine() -> dict[str, Any]:
    """What the figures were taken on. `cores` are those this process may use."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "isthmus": isthmus.__version__,
    }


def package_version(name: str) -> str:
    """Version of an installed package, '' where it is not installed; the package is not imported."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
