"""Compiled loops over arrays, for every room that needs them."""

from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Any:
    """Compiled when first called; cached on disk where numba finds a folder it may write.

    No fused multiply-add and no reassociation, so every machine gets the same numbers; the GIL is released.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
