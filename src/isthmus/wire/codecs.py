"""Formats of float vectors on the link, for buffers of any origin. All little-endian.

    fp32    4 bytes a value, as they are
    bf16    2 bytes a value, rounded half to even; what would round to infinity becomes the largest bf16
    int8    blocks of `block` values: a bf16 scale for every block first, then 1 byte a value
    int4    the same with half a byte a value

A block's scale is max|x| / 127 (int8) or / 7 (int4) in fp32, rounded *up* to bf16, so that no value is
clipped, and never so large that 127 (7) scales would overflow. q = x / scale rounded half to even; the
decoded value is q * scale in fp32. An int4 block of m values takes h = ceil(m/2) bytes; byte k holds q[k] +
8 in its low half and q[k+h] + 8 in its high half (8 if there is none). Only the last block may be ragged.
With blocks of 128 the payload is 3.94 (int8) and 7.76 (int4) times smaller than fp32. Rounding the scale up
makes a quantisation step at most 0.8 % wider.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.errors import CorruptError, InputError, StorageError
from isthmus.wire import kernels

Floats = NDArray[np.float32]
Octets = NDArray[np.uint8]

LEVELS = {"int8": np.float32(127), "int4": np.float32(7)}
_WIDTH = {"fp32": 4, "bf16": 2}
_CHUNK = 1 << 14
"""Values that the plain formats handle at once: their temporaries stay in cache."""
_ALL = np.array([[0, 2**62]], np.int64)


class Encoded(NamedTuple):
    payload: Octets
    sum_squares: float
    """Of the decoded values."""
    finite: bool
    """False: some input was NaN or infinite, and the payload must not be sent."""


def encoded_size(codec: str, n: int, block: int) -> int:
    """Bytes of a payload of n values. Raises InputError for an unknown codec."""
    if codec in _WIDTH:
        return _WIDTH[codec] * n
    if codec not in LEVELS:
        raise InputError(f"unknown codec '{codec}'", hint=f"known are {', '.join([*_WIDTH, *LEVELS])}")
    if block < 2 or block % 2:
        raise InputError(
            f"block_size {block} is odd or too small", hint="use an even number, for example 128"
        )
    return 2 * -(-n // block) + (n if codec == "int8" else -(-n // 2))


def encode(codec: str, values: Floats, block: int, out: Octets | None = None) -> Octets:
    """values f32[n] -> payload u8[encoded_size]. Raises FloatingPointError for NaN and infinities."""
    out = _output(codec, values.size, block, out)
    total, finite = 0.0, True
    if codec in LEVELS:
        for part, scales, body in _parts(codec, out, block, values):
            _, good = kernels.encode(_read(part[0]), LEVELS[codec], scales, body)
            finite &= good
    else:
        for a, z, target in _chunks(codec, out, values.size):
            total += kernels.sum_squares_values(_read(_encode_plain(codec, values[a:z], target)))
        finite = np.isfinite(total)
    if not finite:
        raise FloatingPointError("a value to encode is NaN or infinite")
    return out


def decode(codec: str, payload: Octets, n: int, block: int, out: Floats | None = None) -> Floats:
    """payload -> f32[n]. Raises CorruptError if the payload's size is not that of n values."""
    check_size(codec, payload, n, block)
    out = np.empty(n, np.float32) if out is None else out
    if codec in LEVELS:
        out[:] = 0
        decode_add(codec, payload, block, out)
    else:
        for a, z, source in _chunks(codec, payload, n):
            out[a:z] = _decode_plain(codec, source)
    return out


def encode_delta(
    codec: str, reference: Floats, local: Floats, residual: Floats, block: int, out: Octets | None = None
) -> Encoded:
    """Pseudo-gradient, error feedback: d = reference - local + residual -> payload; residual = d - decoded.

    All f32[n]; one pass. Blocks in which d is not finite leave their residual alone and make `finite` False.
    """
    out = _output(codec, residual.size, block, out)
    total, finite = 0.0, True
    if codec in LEVELS:
        for part, scales, body in _parts(codec, out, block, reference, local, residual):
            squares, good = kernels.encode_delta(
                _read(part[0]), _read(part[1]), part[2], LEVELS[codec], scales, body
            )
            total += squares
            finite &= good
        return Encoded(out, total, finite)
    for a, z, target in _chunks(codec, out, residual.size):
        with np.errstate(over="ignore", invalid="ignore"):
            d = (reference[a:z] - local[a:z]) + residual[a:z]
        decoded = _encode_plain(codec, d, target)
        squares = kernels.sum_squares_values(_read(decoded))
        total += squares
        if np.isfinite(squares):
            np.subtract(d, decoded, out=residual[a:z])
    return Encoded(out, total, bool(np.isfinite(total)))


def publish(codec: str, master: Floats, published: Floats, block: int, out: Octets | None = None) -> Encoded:
    """Server's way down: master - published -> payload; published += decoded. All f32[n].

    With fp32 the payload is the master itself and published becomes equal to it. `take_up` is the other side.
    """
    out = _output(codec, master.size, block, out)
    total, finite = 0.0, True
    if codec in LEVELS:
        for part, scales, body in _parts(codec, out, block, master, published):
            squares, good = kernels.publish(_read(part[0]), part[1], LEVELS[codec], scales, body)
            total += squares
            finite &= good
        return Encoded(out, total, finite)
    for a, z, target in _chunks(codec, out, master.size):
        if codec == "fp32":
            decoded = _encode_plain(codec, master[a:z], target)
            published[a:z] = decoded
        else:
            decoded = _encode_plain(codec, master[a:z] - published[a:z], target)
            published[a:z] += decoded
        total += kernels.sum_squares_values(_read(decoded))
    return Encoded(out, total, bool(np.isfinite(total)))


def take_up(codec: str, payload: Octets, block: int, published: Floats) -> None:
    """A site's way down: published f32[n] becomes, bit for bit, what `publish` left. Raises CorruptError."""
    if codec == "fp32":
        decode(codec, payload, published.size, block, published)
    else:
        decode_add(codec, payload, block, published)


def decode_add(codec: str, payload: Octets, block: int, target: Floats, sign: float = 1.0) -> None:
    """target f32[n] += sign * decoded. Raises CorruptError."""
    accumulate(codec, payload, block, _ALL, np.array([sign], np.float32), target)


def accumulate(
    codec: str, payload: Octets, block: int, segments: NDArray[np.int64], weights: Floats, target: Floats
) -> None:
    """target f32[n] += weight * decoded, straight from the payload. Raises CorruptError.

    Args:
        segments: i64[num, 2], (start, end) in the target; values outside all segments are left untouched.
        weights: f32[num], one per segment; weight 0 leaves its segment untouched.
    """
    check_size(codec, payload, target.size, block)
    if codec in LEVELS:
        first = 0
        for part, scales, body in _parts(codec, payload, block, target):
            kernels.accumulate(_read(scales), _read(body), LEVELS[codec], segments - first, weights, part[0])
            first += part[0].size
        return
    for a, z, source in _chunks(codec, payload, target.size):
        kernels.accumulate_values(_read(_decode_plain(codec, source)), segments - a, weights, target[a:z])


def sum_squares(codec: str, payload: Octets, n: int, block: int) -> float:
    """Of the decoded values; not finite if the payload holds anything that is not. Raises CorruptError.

    Equal bit for bit to what the encoder said.
    """
    check_size(codec, payload, n, block)
    total = 0.0
    if codec in LEVELS:
        for (shape,), scales, body in _parts(codec, payload, block, np.broadcast_to(np.float32(0), n)):
            total += kernels.sum_squares(_read(scales), _read(body), shape.shape[1], LEVELS[codec])
        return total
    for _, _, source in _chunks(codec, payload, n):
        total += kernels.sum_squares_values(_read(_decode_plain(codec, source)))
    return total


def check_size(codec: str, payload: Octets, n: int, block: int) -> None:
    """Raises CorruptError if the payload's size is not that of n values."""
    size = encoded_size(codec, n, block)
    if payload.size != size:
        raise CorruptError(
            f"a payload of {n} values in {codec} has {payload.size} bytes instead of {size}",
            hint="do both sides run the same model, codec and block_size?",
        )


def warm_up() -> None:
    """Compile all kernels (seconds), or load them from numba's cache, so that no transfer waits for it.

    Raises StorageError if the disk that holds the cache is full.
    """
    try:
        _call_every_kernel()
    except OSError as error:
        raise StorageError(
            f"compiled kernels cannot be cached: {error}",
            hint="free some space, or set NUMBA_CACHE_DIR to a folder on another disk",
        ) from error


def _call_every_kernel() -> None:
    values = np.zeros(3, np.float32)
    for codec in ("fp32", "int8"):
        payload = encode(codec, values, 2)
        decode(codec, payload, 3, 2)
        encode_delta(codec, values, values, values.copy(), 2)
        publish(codec, values, values.copy(), 2)
        sum_squares(codec, payload, 3, 2)


def _read(array: NDArray) -> NDArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _output(codec: str, n: int, block: int, out: Octets | None) -> Octets:
    size = encoded_size(codec, n, block)
    if out is None:
        return np.empty(size, np.uint8)
    assert out.size == size, f"{codec} of {n} values needs {size} bytes, not {out.size}"
    return out


def _parts(codec: str, payload: Octets, block: int, *vectors: NDArray) -> Iterator[tuple]:
    """(the vectors one block a row, scales, values) for the whole blocks, then for a ragged last one."""
    n = vectors[0].size
    blocks, tail = n // block, n % block
    whole = blocks * block
    scales, body = payload[: 2 * -(-n // block)].reshape(-1, 2), payload[2 * -(-n // block) :]
    cut = whole if codec == "int8" else whole // 2
    if blocks:
        rows = [vector[:whole].reshape(blocks, block) for vector in vectors]
        yield rows, scales[:blocks], body[:cut].reshape(blocks, -1)
    if tail:
        yield (
            [vector[whole:].reshape(1, tail) for vector in vectors],
            scales[blocks:],
            body[cut:].reshape(1, -1),
        )


def _chunks(codec: str, payload: Octets, n: int) -> Iterator[tuple[int, int, Octets]]:
    width = _WIDTH[codec]
    for start in range(0, n, _CHUNK):
        end = min(n, start + _CHUNK)
        yield start, end, payload[width * start : width * end]


def _encode_plain(codec: str, values: Floats, out: Octets) -> Floats:
    """Write the chunk; returns it decoded."""
    if codec == "fp32":
        out[:] = np.ascontiguousarray(values).view(np.uint8)
        return values
    bits = values.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    finite = (bits & 0x7F800000) != 0x7F800000
    overflow = finite & ((rounded & 0x7F80) == 0x7F80)
    rounded = np.where(overflow, (rounded & 0x8000) | 0x7F7F, np.where(finite, rounded, 0x7FC0))
    out[:] = rounded.astype("<u2").view(np.uint8)
    return (rounded.astype(np.uint32) << 16).view(np.float32)


def _decode_plain(codec: str, source: Octets) -> Floats:
    source = np.require(source, requirements=["C"])
    if codec == "fp32":
        return np.frombuffer(source.tobytes() if source.ctypes.data % 4 else source, "<f4")
    return (np.frombuffer(source, "<u2").astype(np.uint32) << 16).view(np.float32)
