"""The keeper: what it finds when it is started again."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.earlier import is_process
from isthmus.agent.hands import Hands
from isthmus.agent.home import Home
from isthmus.agent.keeper import NODE, Keeper, Site
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageWriter, page_file
from isthmus.heal import events
from isthmus.heal.actions import Member, Record
from isthmus.heal.messages import Hello, Joined, Warm
from isthmus.heal.policy import Policy
from isthmus.journal import events as told_of
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

    def pin(self, process: str, cpus: frozenset[int]) -> None:
        pass

    def kill(self, process: str) -> bool:
        return True

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
    keeper = Keeper(site, nothing, hands, nothing, nothing, nothing, Diagnoser(), nothing)  # pyright: ignore
    keeper.open()
    try:
        assert hands.brood.pids == {"local/1.1": stranger}
        assert keeper.state.gone == ("local/1.2",)  # of the third nothing is known: it may say Hello
        assert [event.subject for event in told] == ["rank-here-1"]  # pyright: ignore
        assert not page_file(tmp_path, "local/1.2").exists()
    finally:
        hands.close()
        keeper.tails.close()


@pytest.fixture
def keeper(tmp_path):
    """A site of three, kept by nobody's processes. `told` is its journal."""
    home = Home(RunDir(tmp_path), "here", NODE, tmp_path, lambda name: None, [])  # pyright: ignore
    hands = Hands(home, Brood())  # pyright: ignore[reportArgumentType]
    told: list[object] = []
    journal = SimpleNamespace(emit=told.append)
    nothing = SimpleNamespace(
        descriptors=[], step=-1, mismatch=lambda ranks: None, last_step=lambda ranks: -1
    )
    site = Site("here", 3, tmp_path, 3, Policy(standbys=0))
    made = Keeper(site, journal, hands, nothing, nothing, nothing, Diagnoser(), nothing)  # pyright: ignore
    made.open()
    made.told = told  # pyright: ignore
    yield made
    hands.close()
    made.tails.close()


def begin(keeper: Keeper) -> list[str]:
    """All three train."""
    names = [f"local/1.{n}" for n in (1, 2, 3)]
    for name in names:
        keeper._happened(events.Started(now_s=0.0, process=name, node=NODE))
        for message in (Hello(name, 1), Warm()):
            keeper._happened(events.Said(now_s=0.0, process=name, message=message))
    for name in names:
        keeper._happened(events.Said(now_s=0.0, process=name, message=Joined(1, 0)))
    assert keeper.state.stage == "running"
    return names


def test_each_death_is_diagnosed_but_that_of_who_was_killed(keeper):
    """Though no process is warm that could take the places."""
    first, second, third = begin(keeper)
    keeper._happened(events.Found(now_s=0.5, finding=hang(2), generation=1))
    assert keeper.state.stage == "empty"
    keeper._gone(events.Exited(now_s=1.0, process=third, code=-9))
    for name in (first, second):
        keeper._gone(events.Exited(now_s=1.0, process=name, code=-11, words="Segmentation fault"))
    found = [event.subject for event in keeper.told if isinstance(event, told_of.Diagnosed)]
    assert found == ["rank-here-0", "rank-here-1"]


def hang(rank: int) -> Finding:
    return Finding(kind="hang", rank=rank, what="no progress", began_s=1.0, seen_s=2.0)


def test_a_disk_that_refuses_the_record_is_told_once_and_does_not_hold_up_the_end(keeper):
    begin(keeper)
    keeper.site = replace(keeper.site, folder=keeper.site.record)  # which is no folder
    keeper._gone(events.Exited(now_s=1.0, process="local/1.1", code=-9))
    for now_s in range(2, 100):
        keeper._happened(events.LeaveAsked(now_s=now_s, reason="enough"))
        keeper._happened(events.Tick(now_s=now_s, step=1))
    disk = [event for event in keeper.told if isinstance(event, told_of.Fault) and event.kind == "disk"]
    assert len(disk) == 1
    assert keeper._unsaved
    keeper._happened(events.Tick(now_s=time.monotonic() + 1000, step=1))
    assert keeper._end is not None


def test_a_number_that_was_given_away_again_is_another_process(stranger):
    assert is_process(stranger, "local/1.1")
    assert not is_process(stranger, "local/1.12")
    assert not is_process(2**22 + 1, "local/1.1")
