"""Each kind of hang in real processes: named within three seconds."""

import pytest
from processes import Agent, Ranks

from isthmus.faults.detect import Watch, WatchSettings
from isthmus.faults.detect.patience import HangSettings
from isthmus.faults.finding import Finding

QUICK = HangSettings(busy_floor_s=2.0, busy_factor=3.0, start_floor_s=1.0)
"""For what is bounded by more than three seconds otherwise."""


def find(folder, fault: str, num_ranks: int, step_s: float) -> tuple[Finding, float]:
    """The first finding, and how long after the fault it came."""
    quick = fault in ("busy", "missing")
    watch = Watch(WatchSettings(hang=QUICK) if quick else None)
    with Ranks(folder, num_ranks, step_s, fault) as ranks:
        found = Agent(ranks, watch).watch_for(30.0)
        assert [finding.rank for finding in found] == [ranks.culprit]
        return found[0], found[0].seen_s - ranks.began_s.value


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("sleep", "hang", "sleeps and uses no processor, in phase forward"),
        ("stop", "hang", "is stopped"),
        ("lock", "hang", "with the interpreter lock held"),
        ("loader", "dataloader_hang", "waiting for data"),
        ("mismatch", "desync", "another collective"),
        ("missing", "rendezvous", "has not come"),
        ("busy", "hang", "computes without getting on"),
    ],
)
def test_a_hang_is_named_within_three_seconds(tmp_path, fault, kind, words):
    finding, delay_s = find(tmp_path, fault, 3, 0.05)
    assert finding.kind == kind
    assert words in finding.what
    assert delay_s < (9.0 if fault == "busy" else 3.0)


@pytest.mark.parametrize("fault", ["sleep", "stop", "lock"])
def test_one_rank_alone_is_watched_too(tmp_path, fault):
    finding, delay_s = find(tmp_path, fault, 1, 0.05)
    assert finding.kind == "hang"
    assert delay_s < 3.0


def test_long_steps_are_no_hang_and_a_sleep_among_them_is(tmp_path):
    _, delay_s = find(tmp_path, "sleep", 2, 0.4)
    assert delay_s < 3.0


def test_checkpoints_of_one_rank_are_no_hang(tmp_path):
    with Ranks(tmp_path, 3, 0.02, "checkpoint") as ranks:
        found = Agent(ranks, Watch()).watch_for(8.0)
        assert [finding for finding in found if finding.kind != "fail_slow"] == []
