"""What the agent makes of the pages of its ranks."""

import os
import time

from isthmus.agent import watch
from isthmus.agent.disk import EVERY_S, DiskLooks
from isthmus.agent.watch import Watcher
from isthmus.faults.detect.disk_probe import DiskProbe
from isthmus.faults.detect.readings import Process
from isthmus.faults.page import PageWriter, Phase, page_file


def test_a_rank_that_still_waits_in_the_last_group_is_missed_in_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "ANSWER_S", 0.1)
    pages = [PageWriter(page_file(tmp_path, f"local/1.{rank}")) for rank in range(3)]
    for page in pages:
        page.regrouped(1, 5)
        page.phase(Phase.EXCHANGE)
    pages[1].wait(pages[1].issue(7))  # 2 computes: it will notice when it comes to a collective
    pages[0].regrouped(2, 5)
    watcher = Watcher(tmp_path, tmp_path)
    ranks = {rank: (f"local/1.{rank}", os.getpid()) for rank in range(3)}
    try:
        assert watcher.look(ranks, 2) == []
        time.sleep(0.15)
        assert [(found.kind, found.rank) for found in watcher.look(ranks, 2)] == [("rendezvous", 1)]
    finally:
        watcher.close()


def test_a_process_that_died_between_two_looks_has_left_how_far_it_came(tmp_path):
    page = PageWriter(page_file(tmp_path, "local/1.0"))
    page.regrouped(1, 5)
    watcher, ranks = Watcher(tmp_path, tmp_path), {0: ("local/1.0", os.getpid())}
    try:
        watcher.look(ranks, 1)
        page.end_step(17)
        assert (watcher.step, watcher.last_step({0: ("local/1.0", 0)})) == (5, 17)
    finally:
        watcher.close()


def test_after_a_roll_back_steps_that_are_done_anew_are_judged_as_well(tmp_path):
    pages = [PageWriter(page_file(tmp_path, f"local/1.{rank}")) for rank in range(3)]
    ranks = {rank: (f"local/1.{rank}", os.getpid()) for rank in range(3)}
    watcher = Watcher(tmp_path, tmp_path)

    def train(first: int, last: int, odd: int | None = None) -> list[str]:
        for step in range(first, last + 1):
            for rank, page in enumerate(pages):
                page.end_step(step)
                page.hashed(step, step % 64, step + (rank == odd))
        time.sleep(watch.JUDGE_NS / 1e9)
        return [found.kind for found in watcher.look(ranks, pages[0]._words[2])]

    try:
        for page in pages:
            page.regrouped(1, 0)
        assert train(1, 1) == []
        assert train(2, 500) == []
        for page in pages:
            page.regrouped(2, 100)
        assert train(101, 101) == []
        assert train(102, 110, odd=1) == ["sdc"]
    finally:
        watcher.close()


def test_a_disk_is_looked_at_once_in_a_while_and_tells_what_a_checkpoint_takes(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001-a.safetensors").write_bytes(bytes(10))
    (tmp_path / "checkpoints" / "step-000000002-b.safetensors").write_bytes(bytes(20))
    looks = DiskLooks(tmp_path, 0.0)
    assert looks.take(0.5 * EVERY_S) is None
    assert (answer(looks, EVERY_S).error, looks.checkpoint_bytes) == ("", 20)
    assert looks.free_bytes
    assert looks.take(1.5 * EVERY_S) is None
    gone = DiskLooks(tmp_path / "gone", 0.0)
    assert (answer(gone, EVERY_S).error, gone.checkpoint_bytes) == ("ENOENT", 0)


def answer(looks: DiskLooks, now_s: float) -> DiskProbe:
    for _ in range(500):
        if probe := looks.take(now_s):
            return probe
        time.sleep(0.01)
    raise AssertionError("no answer")


def test_the_watcher_tells_of_a_disk_that_fails_and_of_one_without_room(tmp_path, monkeypatch):
    bad = DiskProbe(path="/x", duration_s=0.1, error="EIO")

    def take(looks: DiskLooks, now_s: float) -> DiskProbe:
        looks.checkpoint_bytes, looks.free_bytes = 1 << 62, 1 << 40
        return bad

    monkeypatch.setattr(DiskLooks, "take", take)
    monkeypatch.setattr(watch, "NODE_EVERY_S", 0.0)
    watcher = Watcher(tmp_path, tmp_path)
    found = watcher.look({}, 0)
    assert {(each.kind, each.rank, each.lasting) for each in found} == {
        ("disk_fail", None, False),
        ("disk_full", None, False),
    }


def test_a_rank_that_will_use_up_the_memory_is_told_of(tmp_path, monkeypatch):
    """Growth as in /proc, on a clock that runs faster."""
    GIB, now = 1 << 30, [1000.0]
    monkeypatch.setattr(watch, "memory_limit", lambda: 5 * GIB)
    monkeypatch.setattr(watch.time, "monotonic_ns", lambda: int(now[0] * 1e9))
    monkeypatch.setattr(
        watch,
        "read_process",
        lambda pid: Process(letter="R", cpu_s=now[0], rss=int((now[0] - 900) * GIB / 60)),
    )
    page = PageWriter(page_file(tmp_path, "local/1.0"))
    page.regrouped(1, 0)
    page.phase(Phase.FORWARD)
    watcher, found = Watcher(tmp_path, tmp_path), []
    for step in range(1, 120):
        page.end_step(step)
        now[0] += 1.0
        found += watcher.look({0: ("local/1.0", os.getpid())}, 1)
    watcher.close()
    assert [(each.kind, each.rank) for each in found] == [("oom_host", 0)]
