"""Real rank processes: started as a launcher would, signalled, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isthmus.journal import events
from isthmus.journal.reader import read
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.load import load_run, to_yaml
from isthmus.spec.run import RunSpec
from isthmus.train.__main__ import main
from isthmus.train.export import load_final, load_newest_weights
from isthmus.units import Count, Seconds

NUM_STEPS = 400


@pytest.fixture
def run_dir(spec: RunSpec, dataset, tmp_path: Path) -> RunDir:
    train = msgspec.structs.replace(
        spec.train, tokens=Count(NUM_STEPS * 8 * 32), checkpoint_every=Seconds(0.02), micro_batch_size=0
    )
    run = msgspec.structs.replace(spec, train=train)
    return make_run(run, tmp_path / "run")


def make_run(run: RunSpec, path: Path) -> RunDir:
    path.mkdir()
    folder = RunDir(path)
    folder.run_yaml.write_text(to_yaml(run))
    fleet = FleetSpec(sites={"here": SiteSpec(nodes=[NodeSpec(chips={"cpu": 1})])})
    folder.plan.write_bytes(msgspec.json.encode(make_plan(fleet, run)))
    return folder


class Rank:
    """A rank forked from this process: one that imports torch afresh takes seconds to start."""

    def __init__(self, run_dir: RunDir):
        self._errors = run_dir.path / f"errors-{time.monotonic_ns()}"
        self.pid = os.fork()
        if self.pid == 0:
            with open(self._errors, "w") as errors:
                os.dup2(errors.fileno(), sys.stderr.fileno())
                os.dup2(errors.fileno(), 2)
            code = 99
            try:
                code = main(["--run-dir", str(run_dir.path), "--site", "here"])
            except BaseException:
                traceback.print_exc()
            os._exit(code)

    def finish(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        assert "Traceback" not in self._errors.read_text(), self._errors.read_text()
        return os.waitstatus_to_exitcode(status)


def newest(run_dir: RunDir) -> str:
    return max((path.name for path in run_dir.path.glob("sites/here/checkpoints/*.json")), default="")


def wait_for_checkpoint(run_dir: RunDir, after: str = "") -> None:
    """Until there is one newer than `after`."""
    deadline = time.monotonic() + 30
    while newest(run_dir) <= after:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_then_asked_to_leave_then_resumed_is_the_uninterrupted_run(run_dir, tmp_path):
    """One journey: kill -9, SIGTERM, to the end. Another process does the same without a break.

    That one is also watched for `torch._dynamo`, whose import takes seconds and which nothing here needs.
    """
    whole = make_run(load_run(run_dir.run_yaml), tmp_path / "whole")
    command = [sys.executable, "-X", "importtime", "-m", "isthmus.train"]
    command += ["--run-dir", str(whole.path), "--site", "here"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1"}
    imports = tmp_path / "imports"
    with imports.open("w") as told, subprocess.Popen(command, env=environ, stderr=told) as undisturbed:
        rank = Rank(run_dir)
        wait_for_checkpoint(run_dir)
        os.kill(rank.pid, signal.SIGKILL)
        assert rank.finish() == -signal.SIGKILL

        killed_at = newest(run_dir)
        rank = Rank(run_dir)
        wait_for_checkpoint(run_dir, after=killed_at)
        os.kill(rank.pid, signal.SIGTERM)
        assert rank.finish() == 0
        assert not run_dir.final.exists()
        steps = [event.step for event in read(run_dir.path) if isinstance(event, events.StepDone)]
        assert newest(run_dir) == f"step-{steps[-1]:09d}.json"
        assert load_newest_weights(run_dir).path.name.startswith(f"step-{steps[-1]:09d}-")

        assert Rank(run_dir).finish() == 0
    assert undisturbed.returncode == 0
    assert "isthmus.train.loop" in imports.read_text()
    assert "torch._dynamo" not in imports.read_text()
    disturbed, expected = load_final(run_dir.final), load_final(whole.final)
    assert disturbed.tokens == NUM_STEPS * 8 * 32
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(disturbed.parameters[name], array)
    last = {event.step: event.loss for event in read(run_dir.path) if isinstance(event, events.StepDone)}
    once = {event.step: event.loss for event in read(whole.path) if isinstance(event, events.StepDone)}
    assert last == once


def test_a_rank_reports_bad_input_in_a_line_with_a_remedy(run_dir, capsys):
    run_dir.plan.write_bytes(b"{")
    assert main(["--run-dir", str(run_dir.path), "--site", "here"]) == 1
    assert "plan.json" in capsys.readouterr().err
    assert main(["--run-dir", str(run_dir.path / "none"), "--site", "here"]) == 3
    assert "hint:" in capsys.readouterr().err
