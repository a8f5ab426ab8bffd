"""The keeper: what it finds when it is started again."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.earlier import is_process
from isthmus.agent.hands import Hands
from isthmus.agent.home import Home
from isthmus.agent.keeper import NODE, Keeper, Site
from isthmus.faults.page import PageWriter, page_file
from isthmus.heal.actions import Member, Record
from isthmus.heal.policy import Policy
from isthmus.rundir import RunDir


class Brood:
    """Takes down what is asked of it."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.descriptors: list[int] = []

    def open(self) -> None:
        pass

    def adopt(self, process: str, pid: int) -> None:
        self.pids[process] = pid

    def bear(self, birth: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def stranger():
    """A process that lives and is called local/1.1."""
    code = "import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "--process", "local/1.1"])
    yield process.pid
    process.kill()
    process.wait()


def write_page(live: Path, process: str, pid: int) -> None:
    page = PageWriter(page_file(live, process))
    page._words[1] = pid
    page.close()


def test_a_rank_that_died_while_the_agent_was_away_is_missed_at_once(tmp_path, stranger):
    members = tuple(Member(f"local/1.{n}", "local", has_state=True) for n in (1, 2, 3))
    record = Record(boot=1, generation=4, members=members, world_size=3)
    site = Site("here", 3, tmp_path, 3, Policy())
    home = Home(RunDir(tmp_path), "here", NODE, tmp_path, lambda name: None, [])  # pyright: ignore
    site.record.write_bytes(msgspec.json.encode(record))
    write_page(tmp_path, "local/1.1", stranger)
    write_page(tmp_path, "local/1.2", 2**22 + 1)  # beyond all process numbers
    told: list[object] = []
    nothing = SimpleNamespace(emit=told.append, descriptors=[])
    hands = Hands(home, Brood())  # pyright: ignore[reportArgumentType]
    keeper = Keeper(site, nothing, hands, nothing, nothing, nothing, Diagnoser())  # pyright: ignore
    keeper.open()
    try:
        assert hands.brood.pids == {"local/1.1": stranger}
        assert keeper.state.gone == ("local/1.2",)  # of the third nothing is known: it may say Hello
        assert [event.subject for event in told] == ["rank-here-1"]  # pyright: ignore
        assert not page_file(tmp_path, "local/1.2").exists()
    finally:
        hands.close()
        keeper.tails.close()


def test_a_number_that_was_given_away_again_is_another_process(stranger):
    assert is_process(stranger, "local/1.1")
    assert not is_process(stranger, "local/1.12")
    assert not is_process(2**22 + 1, "local/1.1")
