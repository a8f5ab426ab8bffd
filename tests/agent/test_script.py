"""The command, its terminal and its launcher."""

import os
import threading
import time

import pytest

from isthmus.agent import under
from isthmus.agent.rank import Place
from isthmus.agent.script import read_command, spoken
from isthmus.agent.tee import Tee
from isthmus.errors import InputError, UnreachableError
from isthmus.heal.actions import End, Kill, Spawn, Tell
from isthmus.heal.decide import decide
from isthmus.heal.events import Exited, NodeJoined, Said, Started
from isthmus.heal.messages import Abandon, Failed, Form, Hello, Warm
from isthmus.heal.state import initial
from isthmus.journal import events
from isthmus.ui.cli.run import read_tee


def test_commands(tmp_path):
    script = tmp_path / "train.py"
    script.touch()
    name = str(script)
    assert read_command(["python", "-u", name, "--lr", "1"]) == [name, "--lr", "1"]
    assert read_command([name]) == [name]
    assert read_command(["python3.11", "-m", "train", "x"]) == ["-m", "train", "x"]
    for wrong in ([], ["python"], ["-m"], ["missing.py"]):
        with pytest.raises(InputError):
            read_command(wrong)


def test_ranks_to_show():
    assert read_tee("all", 3) == (0, 1, 2)
    assert read_tee("0,2", 3) == (0, 2)
    with pytest.raises(InputError):
        read_tee("3", 3)


def test_whole_lines_of_what_is_new_are_shown(tmp_path, capsys):
    old, new = tmp_path / "0", tmp_path / "1"
    old.write_text("before\n")
    tee = Tee({0: old, 1: new})
    old.write_text("before\nfirst\nsec")
    tee.look()
    old.write_text("before\nfirst\nsecond\n")
    new.write_text("other\n")
    tee.look()
    assert capsys.readouterr().out == "[rank 0] first\n[rank 0] second\n[rank 1] other\n"


def test_what_the_terminal_is_told():
    fault = events.Fault(subject="rank-here-1", kind="crash", detail="KeyError: 'lr'")
    assert spoken(fault) == "rank 1: crash: KeyError: 'lr'"
    assert spoken(events.Note(level="info", text="nothing")) == ""


def _process(*said: object) -> tuple:
    """Two ranks whose group is over as soon as it breaks."""
    state = initial("here", 2)
    state, _ = decide(state, NodeJoined(now_s=0, node="n", slots=2))
    for name in ("n/1.1", "n/1.2"):
        state, _ = decide(state, Started(now_s=0, process=name, node="n"))
        state, _ = decide(state, Said(now_s=0, process=name, message=Hello(name, 1, stays=False)))
        state, found = decide(state, Said(now_s=0, process=name, message=Warm()))
    assert [action.message.rank for action in found if isinstance(action, Tell)] == [0, 1]
    return state


def test_ranks_that_do_not_stay_end_with_their_group():
    state = _process()
    state, found = decide(state, Exited(now_s=1, process="n/1.2", code=-9))
    assert [action.process for action in found if isinstance(action, Kill)] == ["n/1.1"]
    assert not any(isinstance(action, Tell) and isinstance(action.message, Abandon) for action in found)
    assert sum(isinstance(action, Spawn) for action in found) == 2
    state, found = decide(state, Exited(now_s=1, process="n/1.1", code=-9))
    for name in ("n/1.3", "n/1.4"):
        state, found = decide(state, Said(now_s=2, process=name, message=Warm()))
    forms = [action.message for action in found if isinstance(action, Tell)]
    assert all(isinstance(form, Form) and form.generation == 2 for form in forms)
    assert len(forms) == 2


def test_an_error_that_would_only_come_again_is_final():
    message = Failed(-1, "KeyError: 'lr'", "Traceback", 1, final=True)
    _, found = decide(_process(), Said(now_s=1, process="n/1.1", message=message))
    (end,) = [action for action in found if isinstance(action, End)]
    assert (end.exit_code, end.traceback) == (1, "Traceback")


def test_the_others_of_a_node_wait_for_its_first(tmp_path, monkeypatch):
    monkeypatch.setattr(under.tempfile, "gettempdir", lambda: str(tmp_path))
    codes = []
    follower = under.Node(Place(1, 2, 1), "key")
    thread = threading.Thread(target=lambda: codes.append(under.lead(follower, lambda: 0)))
    thread.start()
    assert under.lead(under.Node(Place(0, 2, 0), "key"), lambda: time.sleep(0.5) or 5) == 5
    thread.join()
    assert codes == [5]
    assert not list(tmp_path.iterdir())


def test_a_first_process_that_never_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(under.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(under, "LEADER_S", 0.1)
    with pytest.raises(UnreachableError):
        under.follow(under.Node(Place(1, 2, 1), "key"))


def test_which_launcher():
    assert under.node_of({}) is None
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    node = under.node_of(ranks)
    assert node is not None
    assert (node.num_ranks, node.place.local_rank) == (2, 1)
    assert node.key.startswith(f"{os.getppid()}-")
    with pytest.raises(InputError):
        under.node_of({**ranks, "WORLD_SIZE": "4"})
    step = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NNODES": "1"}
    assert under.node_of(step) is not None
