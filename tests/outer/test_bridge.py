import socket
import struct
import threading

import numpy as np
import pytest

from isthmus.errors import UnreachableError
from isthmus.outer import bridge
from isthmus.outer.bridge import Granted, Line, MayPush, Pace, Stop, Vectors
from isthmus.wire.line import LineClosedError


@pytest.fixture
def ends():
    """Both ends of a line."""
    one, other = socket.socketpair()
    with one, other:
        yield Line(one), Line(other)


@pytest.fixture
def raw():
    """A line and the bare socket at its other end."""
    one, other = socket.socketpair()
    with one, other:
        yield Line(one), other


def framed(message: bridge.LocalMessage) -> bytes:
    one, other = socket.socketpair()
    with one, other:
        Line(one).send(message)
        return other.recv(1 << 16)


def test_messages_arrive_in_order(ends):
    here, there = ends
    sent = [Granted(((0, 8), (16, 24))), Pace(3), MayPush(), Stop("budget")]
    for message in sent:
        here.send(message)
    assert there.receive(5.0) == sent


def test_looking_does_not_wait(ends):
    assert ends[0].receive(0) == []


def test_a_message_torn_anywhere_comes_whole(raw):
    line, other = raw
    data = framed(Granted(((0, 8),))) + framed(Pace(3))
    heard = []
    for byte in data:
        other.sendall(bytes([byte]))
        heard += line.receive(5.0)
    assert heard == [Granted(((0, 8),)), Pace(3)]


def test_a_message_cut_off_by_the_end_is_not_heard(raw):
    line, other = raw
    other.sendall(framed(Pace(3)) + framed(Pace(4))[:-1])
    assert line.receive(5.0) == [Pace(3)]
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(LineClosedError):
        line.receive(5.0)


def test_a_message_longer_than_one_read(ends):
    here, there = ends
    many = Granted(tuple((i, i + 1) for i in range(0, 1_000_000, 2)))
    sender = threading.Thread(target=here.send, args=(many,))
    sender.start()
    heard = []
    while not heard:
        heard = there.receive(5.0)
    sender.join()
    assert heard == [many]


@pytest.mark.parametrize(
    "data", [struct.pack("<I", 1 << 31), struct.pack("<I", 3) + b"abc"], ids=["too long", "no message"]
)
def test_what_is_no_message_ends_the_line(raw, data):
    line, other = raw
    other.sendall(data)
    with pytest.raises(LineClosedError):
        line.receive(5.0)


def test_sending_to_one_that_is_gone(ends):
    here, there = ends
    there.close()
    with pytest.raises(LineClosedError):
        here.send(MayPush())


def test_a_line_closed_by_ourselves_in_another_thread(ends):
    ends[0].close()
    with pytest.raises(LineClosedError):
        ends[0].receive(0)
    with pytest.raises(LineClosedError):
        ends[0].send(MayPush())


def test_a_reset_ends_the_line():
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as one:
        line = Line(one)
        other, _ = door.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        with pytest.raises(LineClosedError):
            line.receive(5.0)


def test_nobody_answers(tmp_path):
    with pytest.raises(UnreachableError, match="does not answer") as caught:
        Line.dial(str(tmp_path / "nobody.sock"), 0.05)
    assert caught.value.hint


def test_dialling_waits_for_the_door(tmp_path):
    path = tmp_path / "line.sock"
    with socket.socket(socket.AF_UNIX) as door:
        timer = threading.Timer(0.1, lambda: (door.bind(str(path)), door.listen()))
        timer.start()
        line = Line.dial(str(path), 30.0)
        connection, _ = door.accept()
        with connection:
            Line(connection).send(MayPush())
            assert line.receive(5.0) == [MayPush()]
        line.close()
        timer.join()


def test_vectors_are_shared_and_removed():
    vectors = Vectors.make(5)
    again = Vectors(vectors.path, 5)
    vectors.reference[:], vectors.snapshot[:], vectors.base[:] = 1, 2, np.arange(5)
    assert again.reference.tolist() == [1] * 5
    assert again.snapshot.tolist() == [2] * 5
    assert again.base.tolist() == [0, 1, 2, 3, 4]
    vectors.remove()
    vectors.remove()
    assert not vectors.path.exists()
    again.base[:] = 7
    assert vectors.base.tolist() == [7] * 5
