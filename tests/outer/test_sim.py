"""Whole protocols on virtual clock, network and disk. A failing seed prints the command that repeats it."""

import pytest

from isthmus.outer.sim import InvariantError, SimConfig, simulate
from isthmus.outer.sim.faults import HARMLESS, KINDS
from isthmus.outer.sim.mutants import MUTANTS
from isthmus.sim.mutants import hunt


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_schedules_of_all_faults(first):
    for seed in range(first, first + 10):
        report = simulate(seed)
        assert report.sites >= 3
        assert report.faults == 5


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_schedules_with_a_standby(first):
    for seed in range(first, first + 10):
        simulate(seed, SimConfig(standby="yes", num_faults=8))


@pytest.mark.parametrize("kind", KINDS)
def test_schedules_of_one_fault(kind):
    for seed in range(3):
        simulate(seed, SimConfig(faults=(kind,), num_faults=6))


def test_a_standby_takes_over():
    config = SimConfig(standby="yes", faults=("crash_server", "pause_server"), num_faults=4)
    assert sum(simulate(seed, config).promotions for seed in range(8)) > 0


@pytest.mark.parametrize("standby", ["yes", "no"])
def test_strict_results_do_not_depend_on_the_schedule(standby):
    calm = simulate(0, SimConfig(mode="strict", standby="no", num_faults=0, shape_seed=1))
    config = SimConfig(mode="strict", standby=standby, faults=HARMLESS, num_faults=6, shape_seed=1)
    assert {simulate(seed, config).final for seed in range(10)} == {calm.final}


def test_the_same_seed_gives_the_same_schedule():
    assert simulate(7) == simulate(7)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bugs_are_found(mutant):
    assert hunt(mutant, simulate) is not None


def test_a_broken_schedule_tells_how_to_repeat_it(monkeypatch):
    monkeypatch.setattr("isthmus.outer.sim.checks.Checks.ended", lambda *_: 1 / 0)
    with pytest.raises(InvariantError) as caught:
        simulate(3, SimConfig(mode="strict"))
    message = str(caught.value)
    assert message.startswith("seed 3: ZeroDivisionError")
    assert "simulate(3, SimConfig(mode='strict'))" in message
