"""How this process's allocator treats memory that is freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Hand freed memory out again instead of giving it back to the system; False where libc has no such switch.

    A step allocates what the step before it freed. By its defaults glibc gives large blocks back in between,
    and every 4 KiB of them costs a page fault: a tenth of the time of an MoE layer.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
