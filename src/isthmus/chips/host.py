"""What the machine has, without torch."""

import os
from pathlib import Path


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that all processes here may use: the control group's limit, v2 or v1, or the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(machine, int((cgroup / name).read_text()))
        except (OSError, ValueError):
            continue  # there is none, or it says "max"
    return machine
