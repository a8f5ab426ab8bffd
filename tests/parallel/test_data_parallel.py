import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from isthmus.comm.collective import SoloCollective
from isthmus.parallel.data_parallel import DataParallel, _make_buckets


@pytest.fixture(scope="module")
def report() -> dict:
    """All scenarios of ranks.py, run once."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ranks.py"))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def values(report: dict, scenario: str) -> list:
    outcome = report[scenario]
    assert "error" not in outcome, outcome["error"]
    return outcome["values"]


def test_unlike_shares_and_micro_batches_give_the_gradient_of_one_process(report):
    totals = values(report, "shares_of_unlike_size_match_one_process")
    assert totals == [3 * (16 + 13 + 10 + 7 + 4)] * 3


def test_split_batch_gives_the_gradient_of_the_whole(report):
    assert values(report, "whole_batch_matches") == [3 * (16 + 13 + 10)] * 3


def test_experts_without_tokens_have_no_gradient_on_any_rank(report):
    assert values(report, "idle_experts_and_idle_ranks") == [3 * (16 + 13)] * 3


def test_experts_idle_on_some_ranks_are_averaged_on_all_over_several_steps(report):
    values(report, "one_rank_has_no_token_for_an_expert")


def test_ranks_stay_bit_equal(report):
    sums = values(report, "training_keeps_ranks_bit_equal")
    assert sums[0] == sums[1] == sums[2]


def test_solo_accumulates_micro_batches_by_targets():
    torch.manual_seed(0)
    layer = nn.Linear(4, 1, bias=False)
    first, second = torch.randn(6, 4), torch.randn(2, 4)
    layer(torch.cat([first, second])).mean().backward()
    want, layer.weight.grad = layer.weight.grad, None
    parallel = DataParallel(layer, SoloCollective())
    parallel.backward(layer(first).mean(), 6, last=False)
    parallel.backward(layer(second).mean(), torch.tensor(2), last=True)
    assert parallel.finish() == 8
    torch.testing.assert_close(layer.weight.grad, want)


def test_a_step_without_targets_is_no_division_by_zero():
    layer = nn.Linear(4, 1, bias=False)
    parallel = DataParallel(layer, SoloCollective())
    parallel.backward(layer(torch.ones(1, 4)).sum(), 0, last=True)
    assert parallel.finish() == 0
    assert float(layer.weight.grad.abs().sum()) == 0.0


def test_buckets_hold_each_parameter_once_and_never_mix_dtypes():
    params = [nn.Parameter(torch.zeros(n, dtype=t)) for n, t in [(5, torch.float32), (3, torch.bfloat16)] * 4]
    buckets = _make_buckets(params, 16)
    assert [p for bucket in buckets for p in bucket.params] == list(reversed(params))
    for bucket in buckets:
        assert len({p.dtype for p in bucket.params}) == 1
        assert sum(v.numel() for v in bucket.views) == bucket.flat.numel()
