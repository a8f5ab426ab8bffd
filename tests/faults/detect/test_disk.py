"""Disks that fill up or do not keep what is written."""

import errno
import os

import pytest

from isthmus.faults.detect import NodeFacts, Readings
from isthmus.faults.detect import disk_probe as module
from isthmus.faults.detect.disk import DiskDetector
from isthmus.faults.detect.disk_probe import BLOCK, DiskProbe, probe_disk
from isthmus.faults.detect.standing import Standing

GIB = 1 << 30


def facts(**changes) -> Readings:
    return Readings(ranks=(0,), nodes={"n": NodeFacts(checkpoint_bytes=10 * GIB, **changes)})


def test_too_little_for_the_next_checkpoint():
    standing = Standing()
    detector = DiskDetector(standing)
    assert detector.observe(0.0, facts(disk_free=50 * GIB)) == []
    (finding,) = detector.observe(1.0, facts(disk_free=10 * GIB))
    assert (finding.kind, finding.place, finding.rank, finding.lasting) == ("disk_full", "n", None, False)
    assert detector.observe(1.0, facts(disk_free=9 * GIB)) == []
    for n in range(20):
        assert detector.observe(2.0 + n, facts(disk_free=50 * GIB)) == []
    assert len(standing.take_ended()) == 1


def test_a_disk_that_fills_up_is_seen_before_it_is_full():
    detector, found = DiskDetector(Standing()), []
    for n in range(600):
        found += detector.observe(float(n), facts(disk_free=int((100 - 0.1 * n) * GIB)))
        if found:
            break
    assert found[0].kind == "disk_full"
    assert "min" in found[0].what
    assert n < 500


def test_checkpoints_that_come_and_go_are_no_trend():
    detector = DiskDetector(Standing())
    for n in range(4000):
        assert detector.observe(float(n), facts(disk_free=(60 - 10 * (n // 100 % 3)) * GIB)) == []


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        (DiskProbe(path="/x", duration_s=0.1, error="ENOSPC"), "disk_full"),
        (DiskProbe(path="/x", duration_s=0.1, error="EDQUOT"), "disk_full"),
        (DiskProbe(path="/x", duration_s=0.1, error="EIO"), "disk_fail"),
        (DiskProbe(path="/x", duration_s=0.1, error="EROFS"), "disk_fail"),
        (DiskProbe(path="/x", duration_s=0.1, differs=True), "disk_fail"),
        (DiskProbe(path="/x", duration_s=60.0), "storage"),
    ],
)
def test_what_a_probe_says(probe, kind):
    standing = Standing()
    detector = DiskDetector(standing)
    (finding,) = detector.observe(0.0, facts(probe=probe))
    assert (finding.kind, finding.place) == (kind, "n")
    assert detector.observe(0.0, facts(probe=probe)) == []


def test_a_good_probe_ends_a_bad_one():
    standing = Standing()
    detector = DiskDetector(standing)
    assert detector.observe(0.0, facts(probe=DiskProbe(path="/x", duration_s=0.1, error="EIO")))
    assert detector.observe(1.0, facts(probe=DiskProbe(path="/x", duration_s=0.1))) == []
    assert len(standing.take_ended()) == 1


def test_a_quota_that_is_used_up_is_not_over_because_the_disk_has_room():
    standing = Standing()
    detector = DiskDetector(standing)
    assert detector.observe(
        0.0, facts(disk_free=50 * GIB, probe=DiskProbe(path="/x", duration_s=0.1, error="EDQUOT"))
    )
    for n in range(20):
        assert detector.observe(1.0 + n, facts(disk_free=50 * GIB)) == []
    assert standing.take_ended() == []
    detector.observe(30.0, facts(disk_free=50 * GIB, probe=DiskProbe(path="/x", duration_s=0.1)))
    assert [finding.kind for finding in standing.take_ended()] == ["disk_full"]


def test_a_good_disk_keeps_a_block_and_nothing_is_left(tmp_path):
    probe = probe_disk(tmp_path, seed=3)
    assert (probe.error, probe.differs) == ("", False)
    assert probe.duration_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_answer_too(tmp_path):
    assert probe_disk(tmp_path / "none").error == "ENOENT"
    (tmp_path / "file").write_text("")
    assert probe_disk(tmp_path / "file").error == "ENOTDIR"


def test_a_disk_that_gives_back_something_else_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_read", lambda descriptor: b"\1" * BLOCK)
    assert probe_disk(tmp_path).differs


def test_a_write_that_fails_is_caught_and_cleaned_up(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    assert probe_disk(tmp_path).error == "ENOSPC"
    assert list(tmp_path.iterdir()) == []
