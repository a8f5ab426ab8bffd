"""Asking an agent for faults, and damage to files and links. The agent is a thread here."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from isthmus.errors import NotFoundError, UnreachableError
from isthmus.faults.inject.messages import InjectReply, InjectRequest
from isthmus.heal.inject import act, ask, listens
from isthmus.wire.line import Line, LineClosedError
from isthmus.wire.orders import take_orders


class AgentLine(Line[InjectRequest]):
    kind = InjectRequest
    what = "the command"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Path, list[InjectRequest]]]:
    """The file with its address, and what it was asked for. It refuses what is meant for rank 9."""
    path = tmp_path / "a.sock"
    asked: list[InjectRequest] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with closing(AgentLine(connection)) as line:
                try:
                    answer(line)
                except LineClosedError:
                    continue

    def answer(line: AgentLine) -> None:
        while True:
            for request in line.receive(None):
                asked.append(request)
                line.send(InjectReply(ok=request.rank != 9, text=f"rank {request.rank}"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    address = tmp_path / "agent.address"
    address.write_text(f"{path}\n")
    yield address, asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5.0)


def test_each_request_has_its_answer(agent: tuple[Path, list[InjectRequest]]):
    address, asked = agent
    requests = [
        InjectRequest(rank=3, kind="kill", at_step=4),
        InjectRequest(rank=9, kind="slow", at_s=2.5, value=1.5),
        InjectRequest(rank=1, kind="kill", at="saving"),
    ]
    replies = ask(address, requests)
    assert [(reply.ok, reply.text) for reply in replies] == [
        (True, "rank 3"),
        (False, "rank 9"),
        (True, "rank 1"),
    ]
    assert asked == requests
    assert listens(address)


def test_an_agent_that_is_not_there(tmp_path: Path):
    with pytest.raises(NotFoundError):
        ask(tmp_path / "agent.address", [])
    assert not listens(tmp_path / "agent.address")
    (tmp_path / "agent.address").write_text(str(tmp_path / "gone.sock"))
    with pytest.raises(UnreachableError):
        ask(tmp_path / "agent.address", [])
    assert not listens(tmp_path / "agent.address")


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda relays, folder: act("link_cut", 3.0, relays, folder), "blackhole 3\n"),
        (lambda relays, folder: act("link_cut", 0.0, relays, folder), "blackhole 10\n"),
        (lambda relays, folder: act("link_slow", 2.5, relays, folder), "slow 2.5\n"),
    ],
)
def test_every_relay_of_the_link_is_told(tmp_path: Path, make: Callable[[list[Path], Path], str], order: str):
    relays = [tmp_path / "relay-0.orders", tmp_path / "relay-1.orders"]
    with take_orders(relays[0]) as first, take_orders(relays[1]) as second:
        assert make(relays, tmp_path)
        assert [first.readline(), second.readline()] == [order, order]


def test_a_link_that_is_not_emulated(tmp_path: Path):
    with pytest.raises(NotFoundError, match="not emulated"):
        act("link_cut", 3.0, [], tmp_path / "checkpoints")


def test_files(tmp_path: Path):
    path = tmp_path / "step-000000009-aa.safetensors"
    path.write_bytes(bytes(100))
    assert "to 25 bytes" in act("truncate", 0.75, [], tmp_path)
    with pytest.raises(NotFoundError):
        act("corrupt", 1.0, [], tmp_path / "none")
