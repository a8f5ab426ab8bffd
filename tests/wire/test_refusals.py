"""Whoever may not come in is told why, once, with a remedy; and nothing sent to the port stops the server."""

import datetime
import shutil
import socket
import ssl
import struct
import time
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.clock import RealClock
from isthmus.errors import AuthError, InputError, UnreachableError
from isthmus.wire import certs, frames, handshake, hello
from isthmus.wire.channel import Channel
from isthmus.wire.frames import Kind
from isthmus.wire.transport import ClientTls, Listener, Plain, ServerTls, Timing, parse_address

from .conftest import QUICK, Recorder


def refused(wire, address, tls, **more):
    session, handler = wire.dial(address, tls=tls, **more)
    with pytest.raises(AuthError) as caught:
        session.wait_up(10.0)
    assert caught.value.where
    assert caught.value.hint
    assert session.error is caught.value
    handler.wait("down", "server")
    session._thread.join(5.0)
    assert not session._thread.is_alive(), "a refusal for good ends the dialling"
    return str(caught.value)


def until(condition):
    deadline_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def make(folder, sites=("a",), days=0):
    certs.init(folder, list(sites), [], datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days))
    return folder


def test_another_authority(wire, fleet, tmp_path):
    listener, _ = wire.listen()
    other = make(tmp_path)
    text = refused(wire, listener.address, ClientTls.load(other, "a"))
    assert "not from our authority" in text
    mixed = tmp_path / "mixed"
    shutil.copytree(other / "a", mixed)
    shutil.copy(fleet / "ca.pem", mixed / "ca.pem")
    text = refused(wire, listener.address, ClientTls.load(mixed, "a"))
    assert "does not accept the certificate of 'a'" in text
    until(lambda: any("certificate" in line.lower() for line in listener.refusals))


@pytest.mark.parametrize(
    ("days", "word"), [(-5000, "has expired"), (30, "is not valid yet")], ids=["expired", "early"]
)
def test_a_server_certificate_out_of_its_time(wire, tmp_path, days, word):
    folder = make(tmp_path, days=days)
    listener, _ = wire.listen(ServerTls.load(folder))
    text = refused(wire, listener.address, ClientTls.load(folder, "a"))
    assert word in text
    assert "clocks agree" in text


class Skewed(RealClock):
    def wall_s(self):
        return super().wall_s() + 86400 * 40


def test_a_wrong_clock_is_measured_and_named(wire, tmp_path):
    folder = make(tmp_path, days=30)
    listener, _ = wire.listen(ServerTls.load(folder), timing=replace(QUICK, clock=Skewed()))
    text = refused(wire, listener.address, ClientTls.load(folder, "a"))
    assert "40.0 days ahead of this one" in text
    assert "NTP" in text


def test_a_site_certificate_out_of_its_time(wire, tmp_path):
    fleet = make(tmp_path / "fleet", days=0)
    shutil.copytree(fleet, tmp_path / "late")
    shutil.rmtree(tmp_path / "late" / "a")
    make(tmp_path / "late", days=-2000)
    shutil.copy(tmp_path / "late" / "server" / "tokens.json", fleet / "server" / "tokens.json")
    listener, _ = wire.listen(ServerTls.load(fleet))
    text = refused(wire, listener.address, ClientTls.load(tmp_path / "late", "a"))
    assert "expired" in text


def test_wrong_token_unknown_site_and_wrong_name(wire, fleet):
    listener, _ = wire.listen()
    tls = ClientTls.load(fleet, "a")
    assert "token of site 'a' is wrong" in refused(wire, listener.address, replace(tls, token="guess"))
    text = refused(wire, listener.address, replace(tls, name="b"))
    assert "belongs to 'a', yet the caller says it is 'b'" in text
    until(lambda: len(listener.refusals) == 2)


def test_a_site_without_a_token_at_the_server(wire, tmp_path):
    folder = make(tmp_path, sites=("a", "c"))
    (folder / "server" / "tokens.json").write_text("{}")
    listener, _ = wire.listen(ServerTls.load(folder))
    assert "no token for site 'c'" in refused(wire, listener.address, ClientTls.load(folder, "c"))


def test_a_site_cannot_pose_as_the_server(wire, tmp_path):
    folder = make(tmp_path, sites=("a", "b"))
    shutil.copy(folder / "server" / "tokens.json", folder / "b" / "tokens.json")
    listener, _ = wire.listen(ServerTls.load(folder, "b"))
    assert "authority" in refused(wire, listener.address, ClientTls.load(folder, "a"))


def test_another_version(wire, fleet, monkeypatch):
    listener, _ = wire.listen()
    real = hello.encode_preamble
    monkeypatch.setattr(
        handshake, "encode_preamble", lambda wall_s: real(wall_s)[:8] + b"\7\0" + real(wall_s)[10:]
    )
    text = refused(wire, listener.address, ClientTls.load(fleet, "a"))
    assert "wire version 7" in text
    assert "same version of isthmus" in text


def test_nobody_there(wire):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    session, _ = wire.dial(address)
    with pytest.raises(UnreachableError, match="cannot connect") as caught:
        session.wait_up(0.2)
    assert not isinstance(caught.value, AuthError)
    assert "check link" in str(caught.value)
    assert str(address[1]) in str(caught.value)


def test_something_else_answers(wire):
    with socket.create_server(("127.0.0.1", 0)) as other:
        session, _ = wire.dial(other.getsockname())
        sock, _ = other.accept()
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(UnreachableError, match="does not speak isthmus"):
            session.wait_up(0.2)
        sock.close()


@pytest.mark.parametrize("text", ["", "nowhere", "host:", ":1", "host:99999", "host:http"])
def test_bad_addresses(text):
    with pytest.raises(UnreachableError, match="no address"):
        parse_address(text)
    assert parse_address("[::1]:80") == ("::1", 80)


def test_a_taken_port(wire):
    listener, _ = wire.listen()
    with pytest.raises(InputError, match="cannot listen"):
        Listener(listener.address, Plain(), Recorder(), QUICK)


@pytest.fixture(scope="module")
def plain():
    with Listener(("127.0.0.1", 0), Plain(), Recorder(), Timing(handshake_s=0.3, silence_s=0.5)) as listener:
        yield listener


def hello_bytes(**fields):
    body = {"site": "x", "token": "", "session": "s", "role": "control", "streams": 1} | fields
    return frames.frame(Kind.HELLO, msgspec.msgpack.encode(hello.Hello(**body)))


PREAMBLE = hello.encode_preamble(0.0)
FRAME = st.builds(
    lambda kind, payload, key, offset: frames.frame(kind, payload, key=key, offset=offset),
    st.sampled_from([kind for kind in Kind if frames._MAX_LENGTH[kind] > 60]),
    st.binary(max_size=60),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", PREAMBLE, PREAMBLE + hello_bytes(), PREAMBLE + hello_bytes(role="up", link="?")]),
    st.lists(st.one_of(FRAME, st.binary(max_size=90)), max_size=5),
)
def test_nothing_sent_to_the_port_stops_the_server(plain, start, rest):
    with socket.create_connection(plain.address) as sock:
        sock.settimeout(5.0)
        try:
            sock.sendall(start + b"".join(rest))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except ConnectionError:
            pass
    assert plain._acceptor.is_alive()
    channel, _, _ = handshake.call(
        plain.address, Plain("probe"), hello.Hello(site="p", token="", session="s", role="probe"), QUICK
    )
    channel.cut()
    channel.close()


def test_an_oversized_frame_is_refused_before_it_is_read(plain):
    body = frames._BODY.pack(frames.MAGIC, Kind.MESSAGE, 0, 0, 0, 0, 1 << 31, 0)
    import xxhash

    huge = body + struct.pack("<I", xxhash.xxh32_intdigest(body))
    with socket.create_connection(plain.address) as sock:
        sock.settimeout(5.0)
        sock.sendall(PREAMBLE + hello_bytes() + huge)
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
    assert b"WELCOME" not in data
    assert plain._acceptor.is_alive()


def test_a_caller_that_says_nothing_is_let_go(plain):
    start_s = time.monotonic()
    with socket.create_connection(plain.address) as sock:
        sock.settimeout(5.0)
        while sock.recv(1 << 16):
            pass
    assert time.monotonic() - start_s < 5.0


def test_an_older_tls_is_refused(wire, fleet):
    listener, _ = wire.listen()
    context = ClientTls.load(fleet, "a").context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(listener.address, timeout=5.0) as sock:
        sock.sendall(hello.encode_preamble(time.time()))
        sock.recv(hello.PREAMBLE_BYTES)
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname=certs.SERVER_DNS)


def test_frames_on_a_raw_channel_match_their_checksum(plain):
    channel, welcome, skew_s = handshake.call(
        plain.address, Plain("p"), hello.Hello(site="p", token="", session="t", role="probe"), QUICK
    )
    assert isinstance(channel, Channel)
    assert abs(skew_s) < 2
    assert welcome.link == ""
    channel.close()
