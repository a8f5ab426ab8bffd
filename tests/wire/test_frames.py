import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.wire import frames
from isthmus.wire.frames import FrameError, Kind

U64 = st.integers(0, 2**64 - 1)


@given(st.sampled_from([Kind.MESSAGE, Kind.CHUNK]), st.binary(max_size=300), st.integers(0, 255), U64, U64)
def test_round_trip(kind, payload, stream, key, offset):
    header = frames.decode(frames.encode(kind, payload, stream=stream, key=key, offset=offset))
    assert header[:5] == (kind, stream, key, offset, len(payload))
    assert frames.intact(header, payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_error_or_a_header(data):
    with pytest.raises(FrameError):
        frames.decode(data)


@given(st.integers(0, frames.HEADER_BYTES * 8 - 1), st.binary(max_size=50))
def test_every_flipped_bit_of_a_header_is_noticed(bit, payload):
    data = bytearray(frames.encode(Kind.MESSAGE, payload, key=7, offset=9))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        frames.decode(data)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_of_a_payload_is_noticed(payload, data):
    header = frames.decode(frames.encode(Kind.CHUNK, payload))
    damaged = bytearray(payload)
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    assert not frames.intact(header, damaged)


@given(st.lists(st.binary(max_size=80), max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_parser_gives_the_same_frames_however_the_stream_is_cut(messages, cuts):
    stream = b"".join(frames.frame(Kind.MESSAGE, message) for message in messages)
    parser, seen, position, turn = frames.Parser(), [], 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        seen += parser.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
    assert [payload for _, payload in seen] == messages


def test_oversized_frames_are_refused_on_both_sides():
    with pytest.raises(FrameError, match="at most"):
        frames.encode(Kind.PING, b"x" * 65)
    small = frames.encode(Kind.MESSAGE, b"")
    body = frames._BODY.pack(frames.MAGIC, Kind.MESSAGE, 0, 0, 0, 0, frames.MAX_MESSAGE + 1, 0)
    import xxhash

    with pytest.raises(FrameError, match="at most"):
        frames.decode(body + frames._CHECK.pack(xxhash.xxh32_intdigest(body)))
    assert len(small) == frames.HEADER_BYTES
