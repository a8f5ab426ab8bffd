"""How this process's allocator treats memory that is freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 << 20
"""Bytes; glibc takes no more. Larger blocks are still mapped afresh, and leave no holes in the heap."""
_INT_MAX = 2**31 - 1


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
