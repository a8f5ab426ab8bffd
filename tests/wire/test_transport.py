"""Real sockets on loopback: messages, transfers, cuts, damage, two sites at once."""

import os
import threading
import tracemalloc

import pytest

from isthmus.errors import InputError
from isthmus.wire import channel, exchange, link
from isthmus.wire.frames import Kind
from isthmus.wire.shaper import Shaper
from isthmus.wire.transport import Listener, Plain, Timing

MIB = 1 << 20


def test_messages_and_blobs_both_ways(wire):
    listener, server = wire.listen()
    session, site = wire.dial(listener.address, hello=b"who I am")
    session.wait_up(10.0)
    server.wait("up", "a")
    (peer,) = listener.peers
    assert peer.hello == b"who I am"
    messages = [b"%d" % i for i in range(200)] + [b"", os.urandom(3 * MIB)]
    assert all(session.peer.send(message) and peer.send(message) for message in messages)
    up, down = os.urandom(5 * MIB + 17), os.urandom(2 * MIB)
    handle = session.peer.put("up", up)
    session.peer.put("empty", b"")
    peer.put("down", down)
    assert handle.wait(20.0)
    server.wait("blob", "a", "empty")
    site.wait("blob", "server", "down")
    server.wait("sent", "a", "down")
    server.wait("message", "a", count=len(messages))
    site.wait("message", "server", count=len(messages))
    assert [event[2] for event in server.events if event[0] == "message"] == messages
    assert server.blobs == {("a", "up"): up, ("a", "empty"): b""}
    assert site.blobs == {("server", "down"): down}
    stats, mirrored = session.peer.stats(), peer.stats()
    assert stats.resent_chunks == 0
    assert stats.bytes_up >= len(up) + sum(map(len, messages))
    assert stats.bytes_up < len(up) + sum(map(len, messages)) + 40 * (len(messages) + 60)
    assert abs(stats.bytes_up - mirrored.bytes_up) < 4096
    assert 0 < stats.rtt_s < 1


def test_a_session_that_was_there_first_finds_the_server_later(wire, fleet):
    first, _ = wire.listen()
    address = first.address
    first.close()
    session, site = wire.dial(address)
    payload = os.urandom(MIB)
    session.peer.put("early", payload)
    assert not session.peer.send(b"lost")
    _, server = wire.listen(address=address)
    site.wait("sent", "server", "early")
    assert server.blobs["a", "early"] == payload


@pytest.mark.parametrize("fault", ["reset", "blackhole"])
def test_a_cut_in_mid_transfer_costs_at_most_a_chunk_per_stream(wire, fault):
    listener, server = wire.listen()
    shaper = wire.keep(Shaper(listener.address, rate_bps=400e6, delay_s=0.001))
    session, site = wire.dial(shaper.address)
    session.wait_up(10.0)
    payload = os.urandom(24 * MIB)
    reached = threading.Event()
    watch = threading.Thread(target=lambda: _until(lambda: shaper.bytes_up > 8 * MIB, reached))
    watch.start()
    session.peer.put("big", payload)
    assert reached.wait(20.0)
    watch.join()
    if fault == "reset":
        shaper.reset()
    else:
        shaper.blackhole(1.3)
    site.wait("down", "server")
    site.wait("sent", "server", "big")
    assert server.blobs["a", "big"] == payload
    assert server.count("blob", "a", "big") == 1
    assert 0 < session.peer.stats().resent_chunks <= 2
    assert site.count("up") == 2


def _until(condition, event):
    while not condition():
        if event.wait(0.002):
            return
    event.set()


def test_a_restarted_server_gets_everything_anew(wire):
    listener, server = wire.listen()
    shaper = wire.keep(Shaper(listener.address, rate_bps=200e6))
    session, site = wire.dial(shaper.address)
    session.wait_up(10.0)
    payload = os.urandom(8 * MIB)
    reached = threading.Event()
    watch = threading.Thread(target=lambda: _until(lambda: shaper.bytes_up > 3 * MIB, reached))
    watch.start()
    session.peer.put("big", payload)
    assert reached.wait(20.0)
    watch.join()
    listener.close()
    _, anew = wire.listen(address=listener.address)
    site.wait("sent", "server", "big")
    assert anew.blobs["a", "big"] == payload
    assert ("a", "big") not in server.blobs


def test_a_damaged_chunk_is_asked_for_again(wire, monkeypatch):
    sent, real = [], channel.frames.encode

    def damaging(kind, payload=b"", **fields):
        header = real(kind, payload, **fields)
        if kind is Kind.CHUNK:
            sent.append(fields["offset"])
            if len(sent) == 2:
                return real(kind, bytes(payload[:-1]) + b"\0", **fields)
        return header

    monkeypatch.setattr(channel.frames, "encode", damaging)
    listener, server = wire.listen(Plain())
    session, site = wire.dial(listener.address, tls=Plain("a"))
    payload = b"\1" * (4 * MIB)
    session.peer.put("k", payload)
    site.wait("sent", "server", "k")
    assert server.blobs["a", "k"] == payload
    assert session.peer.stats().resent_chunks == 1
    assert len(sent) == 5
    assert site.count("down") == 0


def test_too_much_damage_drops_the_link(wire, monkeypatch):
    monkeypatch.setattr(exchange, "MAX_DAMAGED", 3)
    real = link.frames.intact
    monkeypatch.setattr(link.frames, "intact", lambda h, p: h.kind is not Kind.CHUNK and real(h, p))
    listener, server = wire.listen(Plain())
    session, _ = wire.dial(listener.address, tls=Plain("a"))
    session.peer.put("k", bytes(MIB))
    server.wait("down", "a")
    assert "damaged" in next(event[2] for event in server.events if event[0] == "down")
    session.peer.cancel("k")


def test_cancel_and_decline(wire):
    listener, server = wire.listen()
    shaper = wire.keep(Shaper(listener.address, rate_bps=80e6))
    session, site = wire.dial(shaper.address)
    session.wait_up(10.0)
    server.declined.add("unwanted")
    unwanted = session.peer.put("unwanted", bytes(MIB))
    assert not unwanted.wait(10.0)
    old = session.peer.put("k", b"\1" * (4 * MIB))
    new = session.peer.put("k", b"\2" * (2 * MIB))
    assert old.settled
    assert not old.sent
    assert new.wait(20.0)
    session.peer.cancel("k")
    assert server.blobs["a", "k"] == b"\2" * (2 * MIB)
    assert server.count("blob", "a", "k") == 1
    assert site.count("sent", "server", "k") == 1


def test_two_sites_at_once_and_a_site_started_anew(wire):
    listener, server = wire.listen()
    sessions = [wire.dial(listener.address, site) for site in ("a", "b")]
    payloads = [os.urandom(3 * MIB) for _ in sessions]
    for (session, _), payload in zip(sessions, payloads, strict=True):
        session.peer.put("k", payload)
    for _, site in sessions:
        site.wait("sent", "server", "k")
    assert [server.blobs[name, "k"] for name in ("a", "b")] == payloads
    assert [peer.name for peer in listener.peers] == ["a", "b"]
    before = listener.peers[0]
    stuck = before.put("for the old one", bytes(10))
    sessions[0][0].close()
    server.wait("down", "a")
    wire.dial(listener.address, "a")
    server.wait("up", "a", count=2)
    assert listener.peers[0] is not before
    assert stuck.settled
    assert server.count("down", "b") == 0


def test_a_dropped_session_dials_the_next_address(wire):
    first, one = wire.listen()
    second, two = wire.listen()
    session, _ = wire.dial(first.address)
    session._addresses.append(second.address)
    session.wait_up(10.0)
    session.peer.drop("it is no longer the primary")
    two.wait("up", "a")
    one.wait("down", "a")


def test_a_failing_handler_takes_the_link_down_not_the_process(wire, caplog):
    listener, server = wire.listen()
    server.on_message = lambda peer, message: 1 / 0
    session, site = wire.dial(listener.address)
    session.wait_up(10.0).send(b"x")
    site.wait("down", "server")
    server.wait("down", "a")
    assert "handler failed" in next(event[2] for event in server.events if event[0] == "down")
    site.wait("up", "server", count=2)


def test_a_peer_that_does_not_read_is_dropped_with_bounded_memory(wire, monkeypatch):
    monkeypatch.setattr(link.Control, "queue", _bounded(link.Control.queue))
    listener, server = wire.listen()
    session, _ = wire.dial(listener.address)
    session.wait_up(10.0)
    server.wait("up", "a")
    stop = threading.Event()
    server.on_message = lambda peer, message: stop.wait(5.0)
    assert not all(session.peer.send(bytes(MIB)) for _ in range(40))
    stop.set()
    server.wait("down", "a")


def _bounded(queue):
    from isthmus.wire import control

    def limited(self, frame):
        before, control.MAX_QUEUED_BYTES = control.MAX_QUEUED_BYTES, 4 * MIB
        try:
            return queue(self, frame)
        finally:
            control.MAX_QUEUED_BYTES = before

    return limited


def test_payloads_are_not_copied(wire):
    listener, server = wire.listen(Plain())
    target = bytearray(32 * MIB)
    server.allocate = lambda peer, key, size: target
    server.on_blob = lambda peer, key, buffer: server.note("blob", peer.name, key)
    session, site = wire.dial(listener.address, tls=Plain("a"))
    session.wait_up(10.0)
    payload = bytes(32 * MIB)
    tracemalloc.start()
    session.peer.put("k", payload)
    site.wait("sent", "server", "k")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


def test_plain_is_for_loopback_only():
    with pytest.raises(InputError, match="loopback"):
        Listener(("0.0.0.0", 0), Plain(), None, Timing())


def test_what_a_restarted_server_sends_is_not_taken_for_what_the_old_one_sent(wire):
    listener, server = wire.listen()
    session, site = wire.dial(listener.address)
    session.wait_up(10.0)
    server.wait("up", "a")
    for number in range(3):
        listener.peers[0].put(f"old/{number}", b"old")
        site.wait("blob", "server", f"old/{number}")
    listener.close()
    site.wait("down", "server")
    again, server = wire.listen(address=listener.address)
    server.wait("up", "a")
    for number in range(3):
        again.peers[0].put(f"new/{number}", b"new")
        site.wait("blob", "server", f"new/{number}")
        assert site.blobs["server", f"new/{number}"] == b"new"
