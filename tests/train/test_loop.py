import math

import pytest

from isthmus.journal import events


def test_the_loss_falls_and_every_step_is_told(runner):
    outcome = runner.train()
    steps = runner.events(events.StepDone)
    assert [event.step for event in steps] == list(range(1, 13))
    assert {event.tokens for event in steps} == {8 * 32}
    assert steps[0].loss == pytest.approx(math.log(320), abs=0.3)
    assert steps[-1].loss < steps[0].loss - 0.5
    assert outcome.reason == "budget"
    assert outcome.loss == steps[-1].loss
    (held_out,) = runner.events(events.EvalDone)
    assert held_out.loss == outcome.held_out_loss
    assert held_out.tokens == 12 * 8 * 32
    assert held_out.loss < steps[0].loss - 0.5


def test_the_same_seed_gives_the_same_bits(runner, tmp_path):
    runner.train()
    first = runner.losses()
    runner.in_folder(tmp_path / "again").train()
    assert runner.losses() == first
