"""Pages that are shown elsewhere, who may join, and the check of a node."""

import contextlib
import datetime
import socket
import ssl
import time
from pathlib import Path

import msgspec
import pytest

from isthmus.agent.brood import readable
from isthmus.agent.mirror import Mirror, PageTeller
from isthmus.agent.node_line import NodeLine
from isthmus.agent.node_messages import Alive, Changes, NodeHello, Refused, ToNode, Welcome
from isthmus.agent.nodes import Nodes, Terms, listen_for_nodes
from isthmus.errors import AuthError
from isthmus.faults.page import PageReader, PageWriter, Phase, page_file
from isthmus.heal import events
from isthmus.heal.actions import End
from isthmus.wire import certs
from isthmus.wire.line import LineClosedError
from isthmus.wire.tls import ClientTls, NodeTls

FACTS = {"model": "m"}


# ---- pages


def test_a_page_is_the_same_elsewhere_with_times_of_the_clock_there(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    writer = PageWriter(page_file(here, "b/1.1"))
    teller, mirror = PageTeller(here), Mirror(there)
    hour_ns = 3600 * 10**9

    def pass_on() -> list[Changes]:
        found = teller.changes({"b/1.1"})
        mirror.heard(time.monotonic_ns(), time.monotonic_ns() + hour_ns)
        for changes in found:
            mirror.write(changes)
        return found

    pass_on()
    writer.regrouped(3, 0)
    for step in range(1, 100):
        writer.saw(step / 2, 1.0)
        writer.end_step(step)
        writer.hashed(step, 1, step * 7)
        if step % 10 == 0:
            pass_on()
    writer.phase(Phase.BACKWARD)
    (changes,) = pass_on()
    assert len(changes.words) < 1500, "only what is new is told"
    assert not pass_on()
    ours = PageReader(page_file(here, "b/1.1"))
    theirs = PageReader(page_file(there, "b/1.1"))
    now_ns = time.monotonic_ns()
    view, seen = ours.read(now_ns), theirs.read(now_ns + hour_ns)
    assert (seen.step, seen.phase, seen.generation) == (99, Phase.BACKWARD, 3)
    assert seen.phase_s == pytest.approx(view.phase_s, abs=0.05)
    assert theirs.records(0) == ours.records(0)
    assert theirs.states(50) == ours.states(50)
    with pytest.raises(ValueError, match="words"):
        mirror.write(Changes("b/1.1", b"\xff" * 10))


# ---- who may join


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certs")
    certs.init(path, ["here", "there"], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
    return path


class Listening(Nodes):
    closing: contextlib.ExitStack


@pytest.fixture
def nodes(folder: Path, tmp_path: Path):
    terms = Terms(FACTS, 60.0, has_client=False, own="local")
    made = Listening(NodeTls.load(folder, "here"), listen_for_nodes(("127.0.0.1", 0)), terms, tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(made.close, End("done", "", 0))
        made.closing = stack
        yield made


def turn(nodes: Listening) -> list:
    heard = []
    for descriptor in readable(nodes.descriptors, 0.02):
        heard += nodes.ready(descriptor)
    return [*heard, *nodes.turn()]


def connect(nodes: Listening) -> socket.socket:
    return socket.create_connection(nodes.door.getsockname(), 5.0)


class Caller:
    """A node as the keeper sees it."""

    def __init__(self, nodes: Listening, tls: NodeTls):
        self.nodes, self.heard = nodes, []
        self.line = NodeLine(connect(nodes), tls, accepted=False, kind=ToNode)
        nodes.closing.callback(self.line.close)

    def until(self, done, patience_s: float = 10.0) -> list:
        """What the keeper was told meanwhile."""
        end_s, told = time.monotonic() + patience_s, []
        while not done(self.heard, told):
            assert time.monotonic() < end_s, (self.heard, told)
            told += turn(self.nodes)
            if self.line.shake():
                self.heard += self.line.receive()
        return told

    def say_hello(self, **more) -> list:
        usual = {
            "node": "b", "agent": "1", "slots": 1, "spare": False, "address": "127.0.0.1", "facts": FACTS,
            "processes": [], "stamp_s": 1.0,
        }  # fmt: skip
        self.until(lambda heard, told: self.line.proven)
        self.line.send(NodeHello(**{**usual, **more}))
        return self.until(lambda heard, told: heard)


def test_a_node_of_the_site_joins_and_is_lost_when_it_goes(nodes: Listening, folder: Path):
    caller = Caller(nodes, NodeTls.load(folder, "here"))
    (joined,) = caller.say_hello()
    assert isinstance(joined, events.NodeJoined)
    assert (joined.node, joined.slots, joined.address) == ("b", 1, "127.0.0.1")
    assert caller.heard == [Welcome(stamp_s=1.0, lease_s=60.0, has_client=False)]
    caller.line.send(Alive(5.0))
    caller.line.send(events.Started(now_s=0.0, process="b/1.1", node="b"))
    caller.line.send(events.Started(now_s=0.0, process="c/1.1", node="c"))
    told = caller.until(lambda heard, told: len(heard) == 2 and told)
    assert [event.process for event in told] == ["b/1.1"], "it speaks for its own processes only"
    assert caller.heard[1].stamp_s == 5.0
    caller.line.close()
    end_s, lost = time.monotonic() + 10, []
    while not lost:
        assert time.monotonic() < end_s
        lost = turn(nodes)
    assert [type(event) for event in lost] == [events.NodeLost]


@pytest.mark.parametrize(
    ("change", "for_now"),
    [({"facts": {"model": "another"}}, False), ({"node": "local"}, False), ({"agent": "2"}, True)],
)
def test_a_node_that_does_not_fit_is_told_why(nodes: Listening, folder: Path, change: dict, for_now: bool):
    first = Caller(nodes, NodeTls.load(folder, "here"))
    first.say_hello()
    second = Caller(nodes, NodeTls.load(folder, "here"))
    assert second.say_hello(**change) == []
    (refused,) = second.heard
    assert isinstance(refused, Refused)
    assert refused.for_now is for_now


def test_a_node_of_another_site_is_refused(nodes: Listening, folder: Path):
    caller = Caller(nodes, NodeTls.load(folder, "there"))
    with pytest.raises((AuthError, LineClosedError)):
        caller.until(lambda heard, told: heard)
    end_s = time.monotonic() + 5
    while not nodes.notes:
        assert time.monotonic() < end_s
        turn(nodes)
    assert "of site 'there', not of 'here'" in nodes.notes[0]


def test_who_has_no_certificate_is_refused(nodes: Listening, folder: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.check_hostname = False
    connection = connect(nodes)
    connection.setblocking(False)
    stranger = context.wrap_socket(connection, do_handshake_on_connect=False)
    end_s = time.monotonic() + 10
    while not nodes.notes:
        assert time.monotonic() < end_s
        with contextlib.suppress(ssl.SSLError, OSError):
            stranger.do_handshake()
        assert turn(nodes) == []
    assert "refused" in nodes.notes[0]
    assert not nodes.processes
    stranger.close()


def test_who_does_not_speak_tls_is_refused_and_nobody_waits_for_it(nodes: Listening):
    connection = connect(nodes)
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
    end_s = time.monotonic() + 5
    while not nodes.notes:
        assert time.monotonic() < end_s
        assert turn(nodes) == []
    connection.close()


def test_who_knocks_again_and_again_does_not_fill_the_journal(nodes: Listening):
    for number in range(5):
        connection = connect(nodes)
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        connection.close()
        end_s = time.monotonic() + 10
        while not nodes.notes or nodes._refused < number:
            assert time.monotonic() < end_s
            turn(nodes)
    assert len(nodes.notes) == 1
    nodes._tell_from_s = 0.0
    connection = connect(nodes)
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
    end_s = time.monotonic() + 5
    while len(nodes.notes) < 2:
        assert time.monotonic() < end_s
        turn(nodes)
    assert "(4 more since the last word)" in nodes.notes[1]
    connection.close()


def test_a_node_does_not_take_the_server_of_another_fleet_for_its_keeper(nodes: Listening, tmp_path: Path):
    other = tmp_path / "other"
    certs.init(other, ["here"], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
    caller = Caller(nodes, NodeTls.load(other, "here"))
    with pytest.raises((AuthError, LineClosedError)):
        caller.until(lambda heard, told: heard)


def test_a_keeper_that_ends_in_the_handshake_has_refused_nobody(folder: Path):
    with listen_for_nodes(("127.0.0.1", 0)) as door:
        line = NodeLine(
            socket.create_connection(door.getsockname(), 5.0), NodeTls.load(folder, "here"), False, ToNode
        )
        assert not line.shake()
        readable([door.fileno()], 5.0)
        connection, _ = door.accept()
        connection.recv(1 << 16)  # else the close is a reset
        connection.close()
        readable([line.fileno()], 5.0)
        with contextlib.closing(line), pytest.raises(LineClosedError):
            line.shake()


def test_a_site_cannot_pass_for_the_server(folder: Path):
    """Its certificate serves for lines between nodes, and lacks the server's name."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "there" / "cert.pem", folder / "there" / "key.pem")
        theirs.setblocking(False)
        ours.setblocking(False)
        server = context.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
        client = ClientTls.load(folder, "here").context()
        site = client.wrap_socket(ours, server_hostname=certs.SERVER_DNS, do_handshake_on_connect=False)
        with site, server, pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
            shake(site, server)


def shake(*ends: ssl.SSLSocket) -> None:
    for end in ends * 20:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            end.do_handshake()


def test_messages_survive_the_wire():
    hello = NodeHello(
        node="b", agent="1", slots=2, spare=True, address="::1", facts=FACTS, processes=["b/1.1"], stamp_s=2.0
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(hello), type=NodeHello) == hello
