"""int8 and int4 of `codecs` in plain NumPy: the definition that the kernels must match bit for bit."""

import numpy as np

from isthmus.wire.codecs import LEVELS, Floats, Octets


def quantise(codec: str, values: Floats, block: int) -> tuple[Octets, Floats, float]:
    """values f32[n], all finite -> (payload, decoded f32[n], sum of the decoded values' squares)."""
    rows, count = _rows(values, block)
    levels = LEVELS[codec]
    bits = ((np.abs(rows).max(1, initial=0) / levels).view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16
    most = (np.float32(np.finfo(np.float32).max) / levels).view(np.uint32) >> 16
    scale_bits = np.minimum(bits, np.uint64(most)).astype(np.uint32)
    scales = (scale_bits << 16).view(np.float32)
    divisor = np.where(scales > 0, scales, np.float32(1))
    q = np.where(
        scales[:, None] > 0, np.rint(np.clip(rows / divisor[:, None], -levels, levels)), np.float32(0)
    )
    q = q.astype(np.int8)
    squares = scales.astype(np.float64) ** 2 * (q.astype(np.int64) ** 2).sum(1)
    body = [_pack(codec, row[:m]) for row, m in zip(q, count, strict=True)]
    payload = np.concatenate([scale_bits.astype("<u2").view(np.uint8), *body])
    decoded = (q.astype(np.float32) * scales[:, None]).reshape(-1)[: values.size]
    whole = values.size // block
    return payload, decoded, sum(squares[:whole].tolist(), 0.0) + sum(squares[whole:].tolist(), 0.0)


def encode_delta(
    codec: str, reference: Floats, local: Floats, residual: Floats, block: int
) -> tuple[Octets, Floats, float]:
    """Returns (payload, new residual, sum of the decoded values' squares)."""
    d = (reference - local) + residual
    payload, decoded, squares = quantise(codec, d, block)
    return payload, d - decoded, squares


def _rows(values: Floats, block: int) -> tuple[Floats, list[int]]:
    blocks = -(-values.size // block)
    padded = np.zeros(blocks * block, np.float32)
    padded[: values.size] = values
    return padded.reshape(blocks, block), [min(block, values.size - b * block) for b in range(blocks)]


def _pack(codec: str, q: np.ndarray) -> Octets:
    if codec == "int8":
        return q.view(np.uint8)
    half = -(-q.size // 2)
    high = np.zeros(half, np.int8)
    high[: q.size - half] = q[half:]
    return ((q[:half] + 8) | ((high + 8) << 4)).astype(np.uint8)
