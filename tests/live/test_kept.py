"""Ranks of a script that joins die, and the weights at the end are those of a run in which none did."""

import re
import sys
from pathlib import Path

from isthmus.journal import events
from isthmus.journal.fold import fold
from isthmus.journal.reader import read

from .conftest import ISTHMUS, TORCHRUN, start


def healed(run: Path) -> list[events.Healed]:
    return [event for event in read(run) if isinstance(event, events.Healed)]


def test_ranks_that_die_at_any_point(place, undisturbed):
    deaths = ["8:1:before", "12:0:stepped", "13:1:after", "20:0:before"]
    command = ["run", "--nproc", 2, "--run-dir", "run", "--", "python", "kept.py", 30, "out", *deaths]
    code, told = start(place, *command)
    assert code == 0, told
    assert (place / "out").read_text() == undisturbed
    assert len(list(place.glob("out.*"))) == 4
    found = healed(place / "run")
    assert [event.step for event in found] == [8, 13, 14, 20]
    assert not any(event.lost_steps for event in found)
    view = fold(read(place / "run"))
    assert view.finished == "done"
    assert "trains again from step 8" in told


def test_all_die_at_once(place, undisturbed):
    deaths = ["17:0:before", "17:1:before"]
    command = ["run", "--nproc", 2, "--run-dir", "run", "--", "-m", "kept", 30, "out", *deaths]
    code, told = start(place, *command, SAVES="saves")
    assert code == 0, told
    assert (place / "out").read_text() == undisturbed
    assert len(list((place / "saves").glob("*.json"))) == 2


def test_an_error_that_comes_again_ends_the_run(place):
    text = (place / "kept.py").read_text()
    broken = text.replace('point("before")', 'assert step != 7 or keep.rank == 0, "bad record"')
    (place / "kept.py").write_text(broken)
    code, told = start(place, "run", "--nproc", 2, "--run-dir", "run", "--", "kept.py", 30, "out")
    assert code == 1
    assert re.search(r"isthmus: the same error twice: AssertionError: bad record at kept.py:\d+", told)
    assert "Traceback" in told
    assert len(healed(place / "run")) == 1


def test_beneath_torchrun(place, undisturbed):
    launcher = [TORCHRUN, "--nproc-per-node", 2, "--no-python", ISTHMUS]
    command = ["run", "--run-dir", "run", "--", "python", "kept.py", 30, "out", "8:1:before"]
    code, told = start(place, *command, launcher=launcher)
    assert code == 0, told
    assert (place / "out").read_text() == undisturbed
    assert len(healed(place / "run")) == 1


def test_alone(place):
    code, told = start(place, "kept.py", 12, "out", launcher=(sys.executable,), SAVES="saves")
    assert code == 0, told
    code, told = start(place, "kept.py", 12, "out", launcher=(sys.executable,), SAVES="saves")
    assert code == 0, told
    assert (place / "out").read_text().endswith(" 12")
