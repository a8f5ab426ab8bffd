"""Ranks killed with -9, all at once, and what is taken up from the copy in memory."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.comm.collective import GroupBrokenError
from isthmus.comm.local import run_ranks
from isthmus.errors import CheckFailedError, StorageError
from isthmus.journal import events
from isthmus.train import checkpoint, loop, state_copies
from isthmus.train.checkpoint import CHECKPOINTS, drop_after
from isthmus.train.feed import LocalFeed, StepStats
from isthmus.train.peer_copy import PeerCopy


class Keeping:
    """Of a process that nobody replaces."""

    at_most_step = -1

    def __init__(self, memory: Path):
        self.memory = memory
        self.joins: list[tuple[int, int]] = []

    def rejoin(self, error, step):
        raise error

    def joined(self, step, lost_steps=0):
        self.joins.append((step, lost_steps))


@pytest.fixture
def live() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def kept(runner, live, tmp_path):
    """(its losses undisturbed, the runner in a folder of its own, which is there)."""
    runner.train()
    expected = runner.losses()
    (tmp_path / "kept").mkdir()
    runner.in_folder(tmp_path / "kept").keeping = Keeping(live)
    return expected, runner


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(LocalFeed):
    def __init__(self, step: int):
        super().__init__(96)
        self._step = step

    def after_step(self, stats: StepStats) -> None:
        if stats.step == self._step:
            die()


def killed(work: Callable[[], object]) -> None:
    """Runs it in a process that must die of it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)


def told(runner) -> dict[int, float]:
    """Step -> loss; a step that is told twice is the same one."""
    losses: dict[int, float] = {}
    for event in runner.events(events.StepDone):
        assert losses.setdefault(event.step, event.loss) == event.loss
    return losses


def notes(runner) -> list[str]:
    return [event.text for event in runner.events(events.Note)]


def test_the_only_rank_of_a_site_loses_no_step(kept):
    expected, runner = kept
    runner.open_feed = lambda learner: DieAfter(5)
    killed(runner.train)
    runner.open_feed = None
    assert runner.train().reason == "budget"
    assert told(runner) == dict(enumerate(expected, 1))
    assert runner.keeping.joins == [(5, 0)]
    assert notes(runner) == ["site here resumed from the copy in memory of step 5"]
    assert list(runner.keeping.memory.iterdir()) == []


def test_killed_in_the_middle_of_a_copy_the_step_never_was(kept, monkeypatch):
    expected, runner = kept
    seal, sealed = PeerCopy.seal, []

    def die_at_the_fifth(self, *args):
        sealed.append(1)
        return die() if len(sealed) == 5 else seal(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PeerCopy, "seal", die_at_the_fifth)
        killed(runner.train)
    assert max(told(runner)) == 4
    runner.train()
    assert runner.keeping.joins == [(4, 0)]
    assert told(runner) == dict(enumerate(expected, 1))


def test_several_kills_are_survived_in_a_row(kept):
    expected, runner = kept
    for step in (1, 2, 6, 7, 11):
        runner.open_feed = lambda learner, step=step: DieAfter(step)
        killed(runner.train)
    runner.open_feed = None
    runner.train()
    assert told(runner) == dict(enumerate(expected, 1))
    assert runner.keeping.joins == [(11, 0)]


def test_all_ranks_of_a_site_lose_what_is_after_the_last_copy(runner, live, tmp_path, monkeypatch):
    monkeypatch.setattr(state_copies, "EVERY_SHARED", 3)
    run_ranks(lambda group: runner.train(group).loss, 2)
    expected = runner.losses()
    (tmp_path / "kept").mkdir()
    runner.in_folder(tmp_path / "kept").keeping = Keeping(live)
    runner.open_feed = lambda learner: DieAfter(8)
    with pytest.raises(CheckFailedError):
        run_ranks(lambda group: runner.train(group).loss, 2)
    runner.open_feed = None

    def resumed(group):
        runner.train(group)
        return runner.keeping.joins

    assert run_ranks(resumed, 2) == [[[6, 2]], [[6, 0]]]
    assert told(runner) == dict(enumerate(expected, 1))
    assert notes(runner) == ["site here resumed from the copy in memory of step 6"]


def test_what_another_node_remembers_is_taken_from_there(runner, live, tmp_path, monkeypatch):
    """Each rank is a node here; the first one's memory is gone."""
    monkeypatch.setattr(state_copies, "EVERY_SHARED", 3)
    run_ranks(lambda group: runner.train(group).loss, 2)
    expected = runner.losses()
    (tmp_path / "kept").mkdir()
    runner.in_folder(tmp_path / "kept")

    def of_node(group):
        memory = live / str(group.rank)
        memory.mkdir(exist_ok=True)
        runner.keeping = Keeping(memory)
        runner.train(group)
        return runner.keeping.joins

    runner.open_feed = lambda learner: DieAfter(8)
    with pytest.raises(CheckFailedError):
        run_ranks(of_node, 2)
    runner.open_feed = None
    (lost,) = (live / "0").iterdir()
    lost.unlink()
    (zero, one) = run_ranks(of_node, 2)
    assert zero == [[6, 0]]
    assert one[0][0] == 6
    assert one[0][1] in (1, 2)
    assert told(runner) == dict(enumerate(expected, 1))


def test_the_newest_of_copy_and_checkpoint_counts(kept):
    expected, runner = kept
    runner.with_spec(checkpoint_every=0.0001)
    runner.open_feed = lambda learner: DieAfter(6)
    killed(runner.train)
    assert any((runner.folder / CHECKPOINTS).iterdir())
    runner.open_feed = None
    runner.with_spec(checkpoint_every=0)
    (path,) = runner.keeping.memory.iterdir()
    path.write_bytes(path.read_bytes()[:5000])
    runner.train()
    ((step, _),) = runner.keeping.joins
    assert 0 < step <= 6
    assert "json" in notes(runner)[0] or "safetensors" in notes(runner)[0]
    assert told(runner) == dict(enumerate(expected, 1))


def test_a_roll_back_comes_after_the_checkpoint_that_is_being_written(kept, live, monkeypatch):
    """The group breaks after step 5 and is to go on from step 4, with a checkpoint not written yet."""
    expected, runner = kept
    runner.with_spec(checkpoint_every=1e-6).keeping = RolledBack(live, to_step=4)
    runner.open_feed = lambda learner: BreaksAfter(5, runner.keeping)
    write, writing = checkpoint.write_checkpoint, []

    def late(*args):
        time.sleep(0.3)
        return write(*args)

    def drop(*args):
        writing.extend(thread for thread in threading.enumerate() if thread.name == "checkpoint")
        runner.keeping.drops += 1
        drop_after(*args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", late)
    monkeypatch.setattr(loop, "drop_after", drop)
    assert runner.train().reason == "budget"
    assert (runner.keeping.drops, writing) == (1, [])
    assert [step for step, _ in runner.keeping.joins] == [0, 4]
    assert told(runner) == dict(enumerate(expected, 1))


class RolledBack(Keeping):
    def __init__(self, memory: Path, to_step: int):
        super().__init__(memory)
        self._to_step = to_step
        self.broke, self.drops = False, 0

    def rejoin(self, error, step):
        self.broke, self.at_most_step = True, self._to_step


class BreaksAfter(LocalFeed):
    def __init__(self, step: int, keeping: RolledBack):
        super().__init__(96)
        self._step, self._keeping = step, keeping

    def next(self, num_sequences):
        if self.cursor == 8 * self._step and not self._keeping.broke:
            raise GroupBrokenError("a rank is gone")
        return super().next(num_sequences)


def test_a_joined_site_does_not_tell_the_last_step_again(kept):
    _, runner = kept
    runner.alone = False
    runner.open_feed = lambda learner: DieAfter(5)
    killed(runner.train)
    feed = Told(96)
    runner.open_feed = lambda learner: feed
    runner.train()
    assert feed.steps == list(range(6, 13))


class Told(LocalFeed):
    def __init__(self, num_samples: int):
        super().__init__(num_samples)
        self.steps: list[int] = []

    def after_step(self, stats: StepStats) -> None:
        self.steps.append(stats.step)


def test_a_new_run_in_the_same_place_starts_afresh(kept):
    expected, runner = kept
    runner.open_feed = lambda learner: DieAfter(5)
    killed(runner.train)
    folder = runner.folder
    folder.rename(folder.with_name("gone"))
    folder.mkdir()
    runner.open_feed = None
    runner.train()
    assert runner.keeping.joins == [(0, 0)]
    assert runner.losses() == expected


def test_full_memory_is_told_once_and_stops_nothing(kept, monkeypatch):
    expected, runner = kept

    def full(self):
        raise StorageError("no room")

    monkeypatch.setattr(PeerCopy, "_make", full)
    assert runner.train().reason == "budget"
    assert runner.losses() == expected
    assert notes(runner) == ["site here: there are no copies of the state in memory: no room"]


def test_a_folder_on_disk_gets_no_copies(kept, tmp_path):
    expected, runner = kept
    runner.keeping.memory = tmp_path / "live"
    runner.train()
    assert runner.losses() == expected
    (note,) = notes(runner)
    assert "is not in memory" in note
