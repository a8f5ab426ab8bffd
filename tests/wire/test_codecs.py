import itertools
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import CorruptError, InputError, StorageError
from isthmus.wire import codecs, kernels, twin

CODECS = ["fp32", "bf16", "int8", "int4"]
BLOCKED = ["int8", "int4"]
F32 = np.float32


def vector(seed: int, n: int, span: float = 30) -> np.ndarray:
    """Magnitudes over `span` powers of ten in every direction, with zeros in between."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) * 10.0 ** rng.uniform(-span, span, n // 7 + 1).repeat(7)[:n]
    x[rng.random(n) < 0.1] = 0
    return x.astype(F32)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tough = st.one_of(
    finite,
    st.sampled_from(
        [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1e-40, 3.4028235e38, -3.4028235e38, 3.39e38, 0.5, 1.5]
    ),
)
vectors = st.lists(tough, max_size=70).map(lambda values: np.array(values, F32))


@settings(max_examples=300)
@given(st.sampled_from(BLOCKED), vectors, st.sampled_from([2, 4, 8, 10, 64]))
def test_kernel_and_twin_agree_bit_for_bit(codec: str, x: np.ndarray, block: int):
    payload, decoded, squares = twin.quantise(codec, x, block)
    assert codecs.encode(codec, x, block).tobytes() == payload.tobytes()
    assert codecs.decode(codec, payload, x.size, block).tobytes() == (decoded + F32(0)).tobytes()
    assert codecs.sum_squares(codec, payload, x.size, block) == squares


@settings(max_examples=150)
@given(
    st.sampled_from(BLOCKED), st.integers(0, 400), st.integers(0, 2**32 - 1), st.sampled_from([2, 34, 128])
)
def test_delta_and_residual_agree_with_the_twin(codec: str, n: int, seed: int, block: int):
    reference, local, residual = (vector(seed + k, n, 5) for k in range(3))
    payload, after, squares = twin.encode_delta(codec, reference, local, residual, block)
    encoded = codecs.encode_delta(codec, reference, local, residual, block)
    assert encoded.payload.tobytes() == payload.tobytes()
    assert residual.tobytes() == after.tobytes()
    assert encoded.finite
    assert encoded.sum_squares == squares == codecs.sum_squares(codec, payload, n, block)


@settings(max_examples=100)
@given(st.sampled_from(BLOCKED), vectors)
def test_no_value_is_off_by_more_than_half_a_step(codec: str, x: np.ndarray):
    x = x[np.abs(x) < 1e38]
    decoded = codecs.decode(codec, codecs.encode(codec, x, 8), x.size, 8).astype(np.float64)
    for a in range(0, x.size, 8):
        step = np.abs(x[a : a + 8]).max() / float(codecs.LEVELS[codec]) * (1 + 2**-7) + 1e-40
        assert np.all(np.abs(decoded[a : a + 8] - x[a : a + 8]) <= 0.5001 * step)


def test_size_targets_hold_with_room_for_framing():
    n = 10_000_001
    assert 4 * n / codecs.encoded_size("int8", n, 128) > 3.93
    assert 4 * n / codecs.encoded_size("int4", n, 128) > 7.75
    for codec in CODECS:
        for n in (0, 1, 2, 3, 127, 128, 129, 255):
            assert codecs.encode(codec, vector(n, n), 128).size == codecs.encoded_size(codec, n, 128)


def test_plain_formats():
    x = vector(1, 40_000, 35)
    assert codecs.decode("fp32", codecs.encode("fp32", x, 0), x.size, 0).tobytes() == x.tobytes()
    hard = np.array([1.00390625, 1.01171875, 3.4028235e38, -3.4028235e38, -0.0, 1e-45, 1e-40], F32)
    got = codecs.decode("bf16", codecs.encode("bf16", hard, 0), hard.size, 0)
    assert got.tolist() == [
        1.0,
        1.015625,
        3.3895313892515355e38,
        -3.3895313892515355e38,
        0,
        0,
        float(got[-1]),
    ]
    assert abs(got[-1] - 1e-40) < 5e-41


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [3, 20_001])
def test_nothing_that_is_not_finite_passes(codec: str, bad: float, where: int):
    x = vector(2, 20_002, 3)
    residual = vector(3, x.size, 3)
    before = residual.copy()
    x[where] = bad
    with pytest.raises(FloatingPointError):
        codecs.encode(codec, x, 128)
    assert not codecs.encode_delta(codec, x, np.zeros_like(x), residual, 128).finite
    assert np.isfinite(residual).all()
    assert residual[where] == before[where]
    assert not codecs.publish(codec, x, np.zeros_like(x), 128).finite


@pytest.mark.parametrize("codec", CODECS)
def test_error_feedback_loses_nothing_over_time(codec: str):
    rng = np.random.default_rng(0)
    residual, sent, wanted = np.zeros(1000, F32), np.zeros(1000, F32), np.zeros(1000)
    for _ in range(50):
        d = rng.normal(size=1000).astype(F32)
        encoded = codecs.encode_delta(codec, d, np.zeros(1000, F32), residual, 128)
        codecs.decode_add(codec, encoded.payload, 128, sent)
        wanted += d
    assert np.abs(sent + residual - wanted).max() < 1e-4
    assert np.abs(residual).max() < 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", [1, 129, 40_001])
def test_sites_take_up_exactly_what_is_published(codec: str, n: int):
    rng = np.random.default_rng(n)
    master = rng.normal(size=n).astype(F32)
    published, site = master.copy(), master.copy()
    for _ in range(20):
        master += F32(0.01) * rng.normal(size=n).astype(F32)
        codecs.take_up(codec, codecs.publish(codec, master, published, 128).payload, 128, site)
        assert site.tobytes() == published.tobytes()
    assert np.abs(master - published).max() <= {"fp32": 0, "bf16": 1e-3, "int8": 1e-3, "int4": 0.02}[codec]


@settings(max_examples=60)
@given(
    st.sampled_from(CODECS),
    st.integers(1, 300),
    st.lists(st.integers(0, 300), max_size=8),
    st.integers(0, 1000),
)
def test_weights_apply_to_their_segments_alone(codec: str, n: int, cuts: list[int], seed: int):
    x, start = vector(seed, n, 2), vector(seed + 1, n, 2)
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    segments = np.array(list(itertools.pairwise(edges)), np.int64)
    weights = np.linspace(0, 2, len(segments), dtype=F32)
    payload = codecs.encode(codec, x, 16)
    target = start.copy()
    codecs.accumulate(codec, payload, 16, segments, weights, target)
    decoded = codecs.decode(codec, payload, n, 16)
    for (a, z), weight in zip(segments, weights, strict=True):
        wanted = start[a:z] + weight * decoded[a:z] if weight else start[a:z]
        assert target[a:z].tobytes() == wanted.tobytes()


def test_read_only_and_unaligned_buffers_are_fine():
    x = vector(5, 1000, 2)
    for codec in CODECS:
        payload = codecs.encode(codec, x, 128)
        shifted = np.frombuffer(b"!" + payload.tobytes(), np.uint8)[1:]
        assert (
            codecs.decode(codec, shifted, 1000, 128).tobytes()
            == codecs.decode(codec, payload, 1000, 128).tobytes()
        )


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="int5"):
        codecs.encoded_size("int5", 10, 128)
    with pytest.raises(InputError, match="odd"):
        codecs.encoded_size("int8", 10, 7)
    with pytest.raises(CorruptError, match="10 values in int8 has 11 bytes instead of 12"):
        codecs.decode("int8", np.zeros(11, np.uint8), 10, 128)


@pytest.mark.parametrize("scale", [0x7F80, 0x7FC0, 0x8001, 0x7F00])
def test_a_forged_scale_is_not_finite(scale: int):
    payload = codecs.encode("int8", vector(6, 300, 1), 128)
    payload[2:4] = np.array([scale], "<u2").view(np.uint8)
    assert not np.isfinite(codecs.sum_squares("int8", payload, 300, 128))


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch):
    real = numba.njit

    def njit(*, cache: bool = False, **options: Any):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels.jit(lambda x: x + 1)(2) == 3


def test_a_full_disk_below_the_cache_has_a_remedy(monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernels, "encode", full)
    with pytest.raises(StorageError, match="NUMBA_CACHE_DIR"):
        codecs.warm_up()
