"""Memory of this process: what its allocator does with freed blocks, and how much of a device it takes."""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 << 20
"""Bytes; glibc takes no more. Larger blocks are still mapped afresh, and leave no holes in the heap."""
_INT_MAX = 2**31 - 1
TOLD_EVERY = 16
"""Steps: asking a driver takes up to a millisecond, and a leak takes minutes."""


def keep_freed_memory() -> bool:
    """Hand freed memory out again instead of giving it back to the system; False where libc cannot.

    A step allocates what the step before it freed. By its defaults glibc gives large blocks back in between,
    and every 4 KiB of them costs a page fault: up to a tenth of the time of an MoE layer.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))


def device_memory(device: torch.device | str) -> tuple[int, int]:
    """(bytes that this process's tensors take, bytes that they could take), (0, 0) where nothing tells. Of a
    CPU the system tells, which an agent asks.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return 0, 0
    library = torch.get_device_module(device)
    if not hasattr(library, "mem_get_info"):
        return 0, 0
    try:
        free, _ = library.mem_get_info(device)
    except RuntimeError:  # some drivers do not tell what is free
        return 0, 0
    return library.memory_allocated(device), free + library.memory_reserved(device)
