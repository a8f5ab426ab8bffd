"""What the benchmark of kills makes of what ranks and rivals tell."""

import json
import os
from pathlib import Path

import pytest

from isthmus.agent.children import Child
from isthmus_bench.faults import kill, rivals
from isthmus_bench.faults.kill import Kill, Stage
from isthmus_bench.faults.rivals import Recovery, Told
from isthmus_bench.targets import target_of


def step(at_s: float, pid: int, number: int, quorum: int = 0) -> Told:
    return Told(at_s=at_s, pid=pid, what="step", rank=pid % 4, step=number, quorum=quorum)


def begin(at_s: float, pid: int, number: int) -> Told:
    return Told(at_s=at_s, pid=pid, what="begin", rank=pid % 4, step=number)


BEFORE = [begin(1, 1, 0), begin(1, 2, 0), step(9, 1, 25), step(9, 2, 25)]


def test_steps_in_hand_are_no_recovery():
    told = [*BEFORE, step(10.1, 1, 26)]
    assert rivals.resumed(told, 10.0) is None
    assert rivals.resumed([*told, begin(20, 1, 20)], 10.0) is None


def test_a_launcher_has_recovered_with_the_first_step_after_a_begin():
    told = [*BEFORE, step(10.1, 1, 26), begin(20, 3, 20), begin(21, 4, 20), step(23, 3, 21), step(22, 4, 21)]
    assert rivals.resumed(told, 10.0) == Recovery(12.0, 5)


def test_survivors_of_torchft_and_the_one_that_is_replaced():
    told = [step(9, 1, 25, 1), step(9, 2, 25, 1), step(10.1, 1, 26, 1)]
    assert rivals.regrouped(told, 10.0) is None
    told += [step(12, 1, 27, 2)]
    assert rivals.regrouped(told, 10.0) is None
    told += [step(30, 1, 99, 3), step(31, 3, 99, 3)]
    assert rivals.regrouped(told, 10.0) == Recovery(2.0, 0, 21.0)


def test_half_a_line_is_left_for_later(tmp_path: Path):
    line = json.dumps({"at_s": 2.0, "pid": 1, "what": "step", "rank": 0, "step": 3, "quorum": 0})
    (tmp_path / "told-1.jsonl").write_text(f"{line}\n{line[:20]}")
    (tmp_path / "told-2.jsonl").write_text(line.replace("2.0", "1.0") + "\n")
    assert [event.at_s for event in rivals.read_told(tmp_path)] == [1.0, 2.0]


def test_rivals_that_are_not_installed_are_there_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(rivals.VENV, raising=False)
    found = rivals.find(20.0)
    assert [bool(rival.python) for rival in found] == [True, True, False, False, False]
    assert [rival.limit_s for rival in found[:2]] == [rivals.LIMIT_S, 20.0]


def test_what_is_started_ends_with_the_block(tmp_path: Path):
    child = Child("sleeper", ["sh", "-c", "sleep 60 & sleep 60", str(tmp_path)], tmp_path / "log")
    with rivals.running(tmp_path, [child]):
        assert child.alive
    assert not child.alive


def kills() -> list[Kill]:
    return [
        Kill(rank=rank, detect_s=0.01 * (rank + 1), recover_s=0.1 * (rank + 1), lost=0, regrouped_s=0.05,
             joined_s=0.08)
        for rank in range(4)
    ]  # fmt: skip


THEIRS: kill.Theirs = {
    f"torchrun 9 ({kill.TORCHRUN})": [Recovery(10.0, 5), Recovery(12.0, 4), Recovery(11.0, 5)],
    "torchrun 9": [None, Recovery(9.0, 5), None],
    "launcher  (x)": [],
    "ft 1": [Recovery(1.0, 0, 20.0)] * 3,
}


def test_rows_name_who_is_absent_and_who_never_came_back():
    rows = {row.id: row for row in kill.own_rows(kills(), True, THEIRS)}
    assert all(row_id == "faults.kill.recover_s.rank0" or target_of(row_id) for row_id in rows)
    recover = rows["faults.kill.recover_s"]
    assert recover.value == pytest.approx(0.25)
    assert recover.peers == {
        f"torchrun 9 ({kill.TORCHRUN})": 11.0, "ft 1": 1.0, "ft 1, the dead one is replaced": 20.0,
    }  # fmt: skip
    assert "torchrun 9: 2 of 3 did not train again within the limit" in recover.note
    assert "absent: launcher" in recover.note
    assert rows["faults.kill.detect_ms"].value == pytest.approx(40)
    assert rows["faults.kill.recover_s.rank0"].value == pytest.approx(0.1)
    assert rows["faults.kill.steps_lost"].peers == {f"torchrun 9 ({kill.TORCHRUN})": 5, "ft 1": 0}
    assert rows["faults.kill.identical"].value == 1


def test_the_ratio_is_that_to_torchrun():
    row = kill.versus(kills(), THEIRS)
    assert row.value == pytest.approx(11.0 / 0.25)
    assert row.peers == {"ft 1": pytest.approx(4.0)}


def test_the_parts_of_a_recovery_add_up():
    stages = [Stage(each, heard_s=0.06, met_s=0.07) for each in kills()[:1]]
    rows = kill.profile(stages)
    assert [row.id.split(".")[-1] for row in rows] == [f"{name}_ms" for name in kill.PARTS]
    assert sum(row.value for row in rows) == pytest.approx(100)


def test_the_script_of_the_rivals_needs_nothing_of_ours():
    source = Path(rivals.SCRIPT).read_text()
    assert "isthmus" not in source.replace(os.sep, "")
