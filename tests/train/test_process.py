"""Real rank processes: started as a launcher would, signalled, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
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


def start(run_dir: RunDir) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "isthmus.train", "--run-dir", str(run_dir.path), "--site", "here"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1"}
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def newest(run_dir: RunDir) -> str:
    return max((path.name for path in run_dir.path.glob("sites/here/checkpoints/*.json")), default="")


def wait_for_checkpoint(child: subprocess.Popen[str], run_dir: RunDir, after: str = "") -> None:
    """Until there is one newer than `after`."""
    deadline = time.monotonic() + 60
    while newest(run_dir) <= after:
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(child: subprocess.Popen[str]) -> int:
    _, errors = child.communicate(timeout=60)
    assert "Traceback" not in errors, errors
    return child.returncode


def test_killed_then_asked_to_leave_then_resumed_is_the_uninterrupted_run(run_dir, tmp_path):
    """One journey: kill -9, SIGTERM, to the end; then the same without a break."""
    whole = make_run(load_run(run_dir.run_yaml), tmp_path / "whole")
    undisturbed = start(whole)

    child = start(run_dir)
    wait_for_checkpoint(child, run_dir)
    child.kill()
    assert finish(child) == -signal.SIGKILL

    killed_at = newest(run_dir)
    child = start(run_dir)
    wait_for_checkpoint(child, run_dir, after=killed_at)
    child.send_signal(signal.SIGTERM)
    assert finish(child) == 0
    assert not run_dir.final.exists()
    steps = [event.step for event in read(run_dir.path) if isinstance(event, events.StepDone)]
    assert newest(run_dir) == f"step-{steps[-1]:09d}.json"
    assert load_newest_weights(run_dir).path.stem == f"step-{steps[-1]:09d}"

    child = start(run_dir)
    assert finish(child) == 0
    assert finish(undisturbed) == 0
    disturbed, expected = load_final(run_dir.final), load_final(whole.final)
    assert disturbed.tokens == NUM_STEPS * 8 * 32
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(disturbed.parameters[name], array)
    last = {event.step: event.loss for event in read(run_dir.path) if isinstance(event, events.StepDone)}
    once = {event.step: event.loss for event in read(whole.path) if isinstance(event, events.StepDone)}
    assert last == once
    assert load_newest_weights(run_dir).path == run_dir.final / "model.safetensors"
