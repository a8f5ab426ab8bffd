import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def report() -> dict:
    """What ranks.py saw, run once."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ranks.py"))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_ranks_get_the_same(report):
    for seen in report["exchange"]:
        assert seen == {
            "sum": [6.0] * 5,
            "second": [0.0, 3.0, 6.0],
            "broadcast": [2.0, 2.0],
            "agree": -(2**40),
            "share": [1, 2**40 + 1],
        }


def test_a_dead_rank_is_an_error_to_the_others_not_a_hang(report):
    hint = "another rank of this site died, hung or is cut off; its log has the cause"
    assert report["survivors"] == [f"rank 0: {hint}", f"rank 2: {hint}"]


def test_run_ranks_gives_the_traceback_of_a_rank_that_fails(report):
    assert (
        "ValueError: planted" in report["failure"]
        or "a collective inside the site failed" in report["failure"]
    )
