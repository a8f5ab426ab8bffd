import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from isthmus.errors import UnreachableError
from isthmus.wire.orders import give_order
from isthmus.wire.shaper import Shaper, ShaperProcess

MIB = 1 << 20


@pytest.fixture
def echo():
    """A server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(sock):
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                threads.append(threading.Thread(target=serve, args=(sock,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in [acceptor, *threads]:
        thread.join(5.0)


def exchange(address, payload):
    """Sends `payload`, returns (what came back, seconds)."""
    with socket.create_connection(address) as sock:
        sock.settimeout(10.0)
        start_s = time.monotonic()
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        back = b""
        while data := sock.recv(1 << 16):
            back += data
        sender.join()
        return back, time.monotonic() - start_s


def test_bytes_pass_unchanged_late_and_no_faster_than_the_rate(echo):
    payload = bytes(range(256)) * 4096
    with Shaper(echo, rate_bps=80e6, delay_s=0.02) as shaper:
        back, took_s = exchange(shaper.address, payload)
        assert back == payload
        assert took_s >= 0.04 + len(payload) * 8 / 80e6 * 0.9
        assert shaper.bytes_up == shaper.bytes_down == len(payload)


def test_a_blackhole_holds_and_a_reset_breaks(echo):
    with Shaper(echo) as shaper, socket.create_connection(shaper.address) as sock:
        sock.settimeout(5.0)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        shaper.blackhole(0.15)
        start_s = time.monotonic()
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"
        assert time.monotonic() - start_s >= 0.14
        shaper.reset()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert exchange(shaper.address, b"again")[0] == b"again"


def test_nobody_behind_it(echo):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = gone.getsockname()
    with Shaper(target) as shaper, socket.create_connection(shaper.address) as sock:
        sock.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_as_a_process(echo):
    with ShaperProcess(echo, rate_bps=1e9, delay_s=0.001) as shaper:
        assert exchange(shaper.address, b"hello" * 1000)[0] == b"hello" * 1000
        with socket.create_connection(shaper.address) as sock:
            sock.settimeout(5.0)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            shaper.blackhole(0.05)
            shaper.reset()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def round_trip_s(sock: socket.socket) -> float:
    start_s = time.monotonic()
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return time.monotonic() - start_s


def test_slow_until_told_otherwise(echo):
    with Shaper(echo, delay_s=0.01) as shaper, socket.create_connection(shaper.address) as sock:
        sock.settimeout(5.0)
        round_trip_s(sock)
        shaper.slow(10)
        assert round_trip_s(sock) >= 0.2
        shaper.slow(1)
        assert min(round_trip_s(sock) for _ in range(5)) < 0.2


def test_orders_through_a_named_pipe(echo, tmp_path):
    """They reach the relay in order; a relay that is gone is no silent loss."""
    path = tmp_path / "site" / "relay.orders"
    command = [sys.executable, "-m", "isthmus.wire.shaper", "--target", f"{echo[0]}:{echo[1]}"]
    relay = subprocess.Popen(
        [*command, "--orders", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert relay.stdout is not None
    host, port = json.loads(relay.stdout.readline())["address"].split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(5.0)
        round_trip_s(sock)
        give_order(path, "make tea")
        give_order(path, "slow nothing")
        give_order(path, "reset")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    _, errors = relay.communicate(timeout=10)
    assert relay.returncode == 0
    assert not path.exists()
    assert b"make tea" in errors
    assert b"slow nothing" in errors
    with pytest.raises(UnreachableError):
        give_order(path, "reset")
    with pytest.raises(UnreachableError):
        give_order(tmp_path / "none", "reset")


@pytest.mark.parametrize("reset", [False, True])
def test_last_words_arrive_although_the_speaker_is_gone(reset):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Shaper(server.getsockname(), delay_s=0.1) as shaper,
        socket.create_connection(shaper.address) as sock,
    ):
        far, _ = server.accept()
        with far:
            far.settimeout(10.0)
            far.sendall(b"what nobody reads")
            sock.sendall(b"goodbye")
            time.sleep(0.02)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            assert far.recv(100) == b"goodbye"
            assert far.recv(100) == b""
