"""The examples run."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from isthmus.planner.make import make_plan
from isthmus.spec.load import load_fleet, load_run

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_two_sites_fit_their_run():
    folder = EXAMPLES / "two_sites"
    plan = make_plan(load_fleet(folder / "fleet.yaml", []), load_run(folder / "run.yaml", []))
    assert [site.num_ranks for site in plan.sites] == [2, 2]
    assert not plan.warnings


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.timeout(300)
def test_a_hugging_face_model_ends_alike_at_both_sites(tmp_path: Path):
    command = [sys.executable, EXAMPLES / "huggingface_two_sites.py", "--tokens", "30k"]
    done = subprocess.run(
        [*command, "--run-dir", tmp_path / "run"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ends = re.findall(r"(\w+): done after (\d+) steps, version (\d+), parameters (\w+)", done.stdout)
    assert {site for site, *_ in ends} == {"jinan", "shanghai"}
    assert sum(int(steps) for _, steps, *_ in ends) >= 29, "the budget is 29 steps of 8 samples"
    assert len({parameters for *_, parameters in ends}) == 1, done.stdout


@pytest.mark.timeout(200)
def test_a_rank_that_is_killed_changes_no_weight(tmp_path: Path):
    undisturbed, _ = _kept_alive(tmp_path / "undisturbed", kill=False)
    killed, pids = _kept_alive(tmp_path / "killed", kill=True)
    assert len(pids) == 2, "rank 0 tells of itself again from its second process"
    assert killed[-1] == undisturbed[-1]
    assert killed[-1].startswith("sum of the weights")


def _kept_alive(run_dir: Path, *, kill: bool) -> tuple[list[str], list[int]]:
    """What the example says on rank 0, and the processes that were rank 0."""
    isthmus = Path(sys.executable).with_name("isthmus")
    script = ["--", sys.executable, EXAMPLES / "keep_alive.py", "500"]
    command = [isthmus, "run", "--nproc", "2", "--run-dir", run_dir, *script]
    lines: list[str] = []
    pids: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout or ():
            lines.append(line.strip())
            if named := re.fullmatch(r"rank 0 is process (\d+)", lines[-1]):
                pids.append(int(named[1]))
            if kill and lines[-1].startswith("step  100"):
                os.kill(pids[0], signal.SIGKILL)
                kill = False
    assert run.returncode == 0, lines
    return lines, pids
