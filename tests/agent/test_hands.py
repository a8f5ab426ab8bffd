"""A node's hands, on processes that are no ranks."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isthmus import leash
from isthmus.agent.brood import BARREN, Brood, readable
from isthmus.agent.hands import Hands
from isthmus.agent.home import Home
from isthmus.errors import IsthmusError
from isthmus.heal.lifeline import RankLine
from isthmus.heal.messages import Hello, Posted
from isthmus.rundir import RunDir
from isthmus.train.birth import Birth


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


class NoNursery(Brood):
    def _start_nursery(self) -> None:
        pass


@pytest.fixture
def hands(tmp_path):
    home = Home(RunDir(tmp_path), "here", "local", tmp_path, lambda name: None, [])  # pyright: ignore
    made = Hands(home, NoNursery(tmp_path / "nursery.log"))
    made.open()
    yield made
    made.close()


def test_a_process_that_lives_is_not_waited_for(tmp_path, sleeper):
    brood = Brood(tmp_path / "nursery.log")
    brood.adopt("local/1.1", sleeper.pid)
    (descriptor,) = brood.descriptors
    assert brood.reap(descriptor) is None
    sleeper.kill()
    end_s = time.monotonic() + 10
    while (ended := brood.reap(descriptor)) is None:
        assert time.monotonic() < end_s
    assert ended.code == -9


def test_what_a_nursery_that_dies_was_asked_for_is_born_by_the_next(tmp_path, monkeypatch):
    """These nurseries are scripts that say what they are told; the first one dies of its first order."""
    ready, born = (
        "import os; print('ready', flush=True); input()",
        f"print('local/1.1', {os.getpid()}, flush=True)",
    )
    scripts = [f"{ready}; os._exit(9)", f"{ready}; {born}; input()"]
    monkeypatch.setattr(leash, "command", lambda *_: [sys.executable, "-c", scripts.pop(0)])
    brood = Brood(tmp_path / "nursery.log")
    brood.open()
    try:
        brood.bear(Birth(process="local/1.1", module="", arguments=[], log=""))
        found, end_s = [], time.monotonic() + 20
        while not found:
            assert time.monotonic() < end_s
            if readable(brood.answers, 0.1):
                found = brood.hear()
        assert found == ["local/1.1"]
    finally:
        brood.pids.clear()  # that is this process
        brood.close()


def test_nurseries_that_fail_one_after_the_other_are_an_error(tmp_path, monkeypatch):
    script = "print('ready', flush=True); input(); raise OSError('no more processes')"
    monkeypatch.setattr(leash, "command", lambda *_: [sys.executable, "-c", script])
    brood = Brood(tmp_path / "nursery.log")
    brood.open()
    brood.bear(Birth(process="local/1.1", module="", arguments=[], log=""))

    def listen() -> None:
        end_s = time.monotonic() + 20
        while time.monotonic() < end_s:
            if readable(brood.answers, 0.1):
                brood.hear()

    with contextlib.closing(brood), pytest.raises(IsthmusError, match="no more processes"):
        listen()


def test_ranks_that_train_are_no_worse_for_nurseries_that_fail(tmp_path, monkeypatch, sleeper):
    started = []

    def command(*_: object) -> list[str]:
        started.append(True)
        return [
            sys.executable,
            "-c",
            "print('ready', flush=True); input(); raise OSError('no more processes')",
        ]

    monkeypatch.setattr(leash, "command", command)
    brood = Brood(tmp_path / "nursery.log")
    brood.open()
    brood.adopt("local/1.0", sleeper.pid)
    with contextlib.closing(brood):
        for rounds in (1, 2):
            brood.bear(Birth(process=f"local/1.{rounds}", module="", arguments=[], log=""))
            end_s = time.monotonic() + 20
            while brood.answers:
                assert time.monotonic() < end_s
                if readable(brood.answers, 0.1):
                    assert brood.hear() == []
            assert len(started) == rounds * BARREN
            assert sleeper.poll() is None


def test_a_nursery_with_a_thread_of_a_library_forks_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "driver.py").write_text(
        "import sys, threading, time\n"
        "if '--bear' not in sys.argv:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "def main(arguments):\n"
        "    print('threads', threading.active_count(), *arguments, flush=True)\n"
        "    time.sleep(60)\n"
    )
    brood, log = Brood(tmp_path / "nursery.log", imports=("driver",)), tmp_path / "rank.log"
    brood.open()
    with contextlib.closing(brood):
        brood.bear(Birth(process="local/1.1", module="driver", arguments=["here"], log=str(log)))
        end_s = time.monotonic() + 60
        while not (log.exists() and "threads 1 here" in log.read_text()):
            assert time.monotonic() < end_s, (tmp_path / "nursery.log").read_text()
            if readable(brood.answers, 0.1):
                brood.hear()
        pid = brood.pids["local/1.1"]
        assert f"PPid:\t{os.getpid()}" in Path(f"/proc/{pid}/status").read_text()
    assert "a fresh interpreter" in (tmp_path / "nursery.log").read_text()


def test_nobody_waits_for_a_process_that_reads_nothing(hands, sleeper):
    """It is stopped, say. When it goes on, it finds its line closed, and dials again."""
    with contextlib.closing(RankLine.dial(str(hands.home.live / "door.sock"), 1.0)) as rank:
        rank.send(Hello("local/1.1", sleeper.pid))
        hands.ready(hands.door)
        (descriptor,) = [each for each in hands.descriptors if each not in hands.brood.descriptors]
        hands.ready(descriptor)
        began_s = time.monotonic()
        for number in range(100):
            hands.tell("local/1.1", Posted(1, f"rank/{number}", bytes(1 << 16)))
        assert time.monotonic() < began_s + 10
        assert descriptor not in hands.descriptors
