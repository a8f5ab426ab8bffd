"""Block quantisation in one pass over memory. `twin` says the same in plain NumPy, bit for bit.

No fused multiply-add, no reassociation, round half to even: every machine gets the same bytes. Kernels
release the GIL. Matrices hold one block a row (a ragged last block is a call of its own): indexed so, the
inner loops vectorise. What is only read comes in read-only, so that each kernel compiles once. `levels` is
127 (int8) or 7 (int4).
"""

import numpy as np

from isthmus.jit import jit

_ROUND = np.float32(12582912.0)
"""1.5 * 2**23: adding and taking it away rounds |x| < 2**22 half to even."""
_INF_BITS = np.int64(0x7F800000)
_MAX_FLOAT = np.float32(3.4028234663852886e38)
_LANES = 8


@jit
def _absmax_bits(d, b):
    """Largest |d| in row b as its bit pattern, which sorts as the number does; NaN and inf sort above."""
    bits = d.view(np.int32)
    top = np.int64(0)
    for i in range(bits.shape[1]):
        top = max(top, np.int64(bits[b, i]) & np.int64(0x7FFFFFFF))
    return top


@jit
def _largest_scale_bits(levels):
    """bf16 bits of the largest scale for which levels * scale is finite."""
    return np.int64(np.float32(_MAX_FLOAT / levels).view(np.int32) >> 16)


@jit
def _scale_bits(top, levels):
    """bf16 bits of absmax / levels rounded up, so that no value is clipped."""
    scale = np.float32(np.int32(top).view(np.float32) / levels)
    return min((np.int64(scale.view(np.int32)) + 0xFFFF) >> 16, _largest_scale_bits(levels))


@jit
def _bf16_value(bits):
    return np.int32(np.int64(bits) << 16).view(np.float32)


@jit
def _quantise(d, b, levels, q, deq):
    """Row b of d -> q in [-levels, levels], deq = q * scale.

    Returns (bf16 bits of the scale, sum of deq**2, whether all of d was finite; if not, q and deq are zeros).
    """
    top = _absmax_bits(d, b)
    bits = _scale_bits(top, levels)
    if top >= _INF_BITS or bits == 0:
        for i in range(d.shape[1]):
            q[0, i] = 0
            deq[0, i] = 0
        return np.int64(0), 0.0, top < _INF_BITS
    scale = _bf16_value(bits)
    for i in range(d.shape[1]):
        y = min(max(d[b, i] / scale, -levels), levels)
        r = (y + _ROUND) - _ROUND
        q[0, i] = np.int8(r)
        deq[0, i] = r * scale
    squares = np.int64(0)
    for i in range(d.shape[1]):
        squares += np.int32(q[0, i]) * np.int32(q[0, i])
    return bits, np.float64(scale) * np.float64(scale) * np.float64(squares), True


@jit
def _store(q, bits, b, levels, scales, payload):
    """Byte k of an int4 row holds value k in its low half, value k + half in its high half, each as q + 8."""
    scales[b, 0] = np.uint8(bits & 0xFF)
    scales[b, 1] = np.uint8(bits >> 8)
    n, half = q.shape[1], payload.shape[1]
    if levels > 7:
        for i in range(n):
            payload[b, i] = np.uint8(q[0, i])
        return
    for i in range(n - half):
        payload[b, i] = np.uint8((q[0, i] + 8) | ((q[0, half + i] + 8) << 4))
    if n - half < half:
        payload[b, half - 1] = np.uint8((q[0, half - 1] + 8) | 0x80)


@jit
def encode(values, levels, scales, payload):
    """values f32[rows, block] -> scales u8[rows, 2], payload u8[rows, bytes].

    Returns (sum of the decoded values' squares, whether all values were finite; a row that was not is zeros).
    """
    q, deq = np.empty((1, values.shape[1]), np.int8), np.empty((1, values.shape[1]), np.float32)
    total, finite = 0.0, True
    for b in range(values.shape[0]):
        bits, squares, good = _quantise(values, b, levels, q, deq)
        _store(q, bits, b, levels, scales, payload)
        total += squares
        finite &= good
    return total, finite


@jit
def encode_delta(reference, local, residual, levels, scales, payload):
    """d = reference - local + residual -> payload; residual := d - decoded, where d was finite.

    All f32[rows, block]. Returns what `encode` does.
    """
    rows, block = residual.shape
    d, q, deq = (
        np.empty((1, block), np.float32),
        np.empty((1, block), np.int8),
        np.empty((1, block), np.float32),
    )
    total, finite = 0.0, True
    for b in range(rows):
        for i in range(block):
            d[0, i] = (reference[b, i] - local[b, i]) + residual[b, i]
        bits, squares, good = _quantise(d, 0, levels, q, deq)
        _store(q, bits, b, levels, scales, payload)
        total += squares
        finite &= good
        if good:
            for i in range(block):
                residual[b, i] = d[0, i] - deq[0, i]
    return total, finite


@jit
def publish(master, published, levels, scales, payload):
    """master - published -> payload; published += decoded. All f32[rows, block]. Returns as `encode`."""
    rows, block = published.shape
    d, q, deq = (
        np.empty((1, block), np.float32),
        np.empty((1, block), np.int8),
        np.empty((1, block), np.float32),
    )
    total, finite = 0.0, True
    for b in range(rows):
        for i in range(block):
            d[0, i] = master[b, i] - published[b, i]
        bits, squares, good = _quantise(d, 0, levels, q, deq)
        _store(q, bits, b, levels, scales, payload)
        total += squares
        finite &= good
        for i in range(block):
            published[b, i] += deq[0, i]
    return total, finite


@jit
def _scale(scales, b):
    return _bf16_value(np.int64(scales[b, 0]) | (np.int64(scales[b, 1]) << 8))


@jit
def _add_row(payload, b, levels, scaled, target):
    scale, weight = scaled
    n, half = target.shape[1], payload.shape[1]
    if levels > 7:
        for i in range(n):
            target[b, i] += weight * (np.float32(np.int8(payload[b, i])) * scale)
        return
    for i in range(half):
        target[b, i] += weight * (np.float32(np.int32(payload[b, i] & 15) - 8) * scale)
    for i in range(n - half):
        target[b, half + i] += weight * (np.float32(np.int32(payload[b, i] >> 4) - 8) * scale)


@jit
def _add_part(payload, b, levels, scaled, span, target):
    """Columns span[0] to span[1] of row b: where a segment begins or ends inside a block."""
    scale, weight = scaled
    half = payload.shape[1]
    for i in range(span[0], span[1]):
        if levels > 7:
            q = np.int32(np.int8(payload[b, i]))
        elif i < half:
            q = np.int32(payload[b, i] & 15) - np.int32(8)
        else:
            q = np.int32(payload[b, i - half] >> 4) - np.int32(8)
        target[b, i] += weight * (np.float32(q) * scale)


@jit
def accumulate(scales, payload, levels, segments, weights, target):
    """target += weight * decoded in each segment, segments i64[num, 2] as (start, end) counted in `target`.

    A segment of weight 0 is left untouched; segments may reach beyond the target on both sides.
    """
    rows, block = target.shape
    for s in range(segments.shape[0]):
        weight = weights[s]
        start, end = max(segments[s, 0], 0), min(segments[s, 1], rows * block)
        if weight == 0 or start >= end:
            continue
        for b in range(start // block, (end + block - 1) // block):
            first, last = max(start - b * block, 0), min(end - b * block, block)
            if first == 0 and last == block:
                _add_row(payload, b, levels, (_scale(scales, b), weight), target)
            else:
                _add_part(payload, b, levels, (_scale(scales, b), weight), (first, last), target)


@jit
def accumulate_values(values, segments, weights, target):
    """`accumulate` for plain numbers: values and target f32[n]."""
    for s in range(segments.shape[0]):
        weight = weights[s]
        start, end = max(segments[s, 0], 0), min(segments[s, 1], target.size)
        if weight == 0 or start >= end:
            continue
        part, into = values[start:end], target[start:end]
        for i in range(into.size):
            into[i] += weight * part[i]


@jit
def sum_squares(scales, payload, count, levels):
    """Of the decoded values, `count` in a row; NaN if a scale is negative, not finite or too large."""
    most = _largest_scale_bits(levels)
    total = 0.0
    for b in range(payload.shape[0]):
        scale = _scale(scales, b)
        if (np.int64(scales[b, 0]) | (np.int64(scales[b, 1]) << 8)) > most:
            return np.nan
        squares = np.int64(0)
        if levels > 7:
            for i in range(count):
                q = np.int32(np.int8(payload[b, i]))
                squares += q * q
        else:
            for i in range(payload.shape[1]):
                low, high = np.int32(payload[b, i] & 15) - 8, np.int32(payload[b, i] >> 4) - 8
                squares += low * low + high * high
        total += np.float64(scale) * np.float64(scale) * np.float64(squares)
    return total


@jit
def sum_squares_values(values):
    """Of f32[n], in float64: lane i % 8 first, then over the lanes; NaN or infinite if a value is."""
    lanes = np.zeros(_LANES, np.float64)
    whole = values.size - values.size % _LANES
    rows = values[:whole].reshape(-1, _LANES)
    for b in range(rows.shape[0]):
        for j in range(_LANES):
            v = np.float64(rows[b, j])
            lanes[j] += v * v
    rest = values[whole:]
    for j in range(rest.size):
        v = np.float64(rest[j])
        lanes[j] += v * v
    total = 0.0
    for j in range(_LANES):
        total += lanes[j]
    return total
