"""The number formats of stored weights, and the way from one to another.

NumPy has no bf16: its values are held as the uint16 that are their bits, the upper half of an fp32.
"""

from typing import Literal

import numpy as np

Format = Literal["F32", "BF16", "F16"]
"""As safetensors calls them."""

RAW: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<f2")}


def convert(raw: np.ndarray, source: str, target: str) -> np.ndarray:
    """Values in RAW[source] as RAW[target]; the same array where they are equal. Rounds to nearest, ties to
    even."""
    if source == target:
        return raw
    values = _from_bf16(raw) if source == "BF16" else raw.astype(np.float32, copy=False)
    if target == "BF16":
        return _to_bf16(values)
    return values.astype(RAW[target], copy=False)


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _to_bf16(values: np.ndarray) -> np.ndarray:
    """Not a number stays so, quiet and with its sign: rounding could carry its bits into infinity."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= 16
    is_nan = np.isnan(values)
    if is_nan.any():
        rounded[is_nan] = (bits[is_nan] >> 16) | 0x40
    return rounded.astype(np.uint16)
