"""Healing on virtual clock, network and disk. A failing seed prints the command that repeats it."""

import json
import subprocess
import sys

import pytest

from isthmus.heal.sim import InvariantError, SimConfig, simulate
from isthmus.heal.sim.faults import KINDS
from isthmus.heal.sim.mutants import MUTANTS
from isthmus.heal.sim.world import POLICY_ENDS
from isthmus.sim.mutants import hunt


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_schedules_of_all_faults(first):
    reports = [simulate(seed) for seed in range(first, first + 50)]
    assert all(report.outcome == "done" or report.reason.startswith(POLICY_ENDS) for report in reports)
    assert sum(report.outcome == "done" for report in reports) >= 48


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_schedules_of_one_fault(kind):
    for seed in range(5):
        simulate(seed, SimConfig(faults=(kind,), num_faults=4))


def test_kills_strike_at_every_wait():
    struck = set()
    for seed in range(150):
        report = simulate(seed, SimConfig(faults=("kill", "kill_keeper", "kill_both"), num_faults=6, steps=6))
        struck |= {fault.split(" at ")[1] for fault in report.faults}
    waits = {
        "spawning", "warming", "waiting for a place", "listening", "posting", "connecting", "exchange agree",
        "loading", "exchange copy", "joining", "computing", "exchange step", "committing", "copying out",
        "saving 0", "saving 1", "saving 2", "renaming", "exchange saved", "leaving", "breaking",
        "keeper Remember", "keeper Spawn", "keeper Tell", "keeper Emit",
    }  # fmt: skip
    assert waits <= struck


def test_partitions_never_make_two_groups():
    for seed in range(60):
        simulate(seed, SimConfig(faults=("cut", "cut_pair"), num_faults=4))
        apart = SimConfig(nodes=(0, 2), spares=1, world_size=2, faults=("cut",), num_faults=2, steps=60)
        simulate(seed, apart)


def test_one_death_costs_no_step():
    config = SimConfig(faults=("kill",), nodes=(2, 2), spares=0, num_faults=1, strict=True)
    assert all(simulate(seed, config).lost_steps == 0 for seed in range(40))


def test_the_loss_of_all_memories_costs_what_was_not_saved():
    reports = [simulate(seed, SimConfig(faults=("kill_node",), nodes=(2,), spares=0, num_faults=1, steps=20))
               for seed in range(20)]  # fmt: skip
    assert any(report.lost_steps > 0 for report in reports)
    assert all(report.lost_steps <= 8 and report.outcome == "done" for report in reports)


def test_a_numeric_fault_that_stays_is_rolled_back():
    config = SimConfig(faults=("nan",), num_faults=2, steps=30, strict=True)
    reports = [simulate(seed, config) for seed in range(20)]
    assert any(report.rollbacks for report in reports)
    config = SimConfig(faults=("nan", "kill", "kill_keeper"), num_faults=6, steps=30)
    for seed in range(30):
        simulate(seed, config)


def test_a_storm_of_kills_is_survived():
    config = SimConfig(faults=("kill", "kill_many", "kill_keeper"), num_faults=40, steps=40, strict=True)
    for seed in range(10):
        assert simulate(seed, config).steps == 40


def test_the_same_seed_gives_the_same_schedule():
    assert simulate(7) == simulate(7)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bugs_are_found(mutant):
    assert hunt(mutant, simulate) is not None


def test_a_broken_schedule_tells_how_to_repeat_it(monkeypatch):
    monkeypatch.setattr("isthmus.heal.sim.checks.Checks.finished", lambda *_: 1 / 0)
    with pytest.raises(InvariantError) as caught:
        simulate(3, SimConfig(steps=6))
    message = str(caught.value)
    assert message.startswith("seed 3: ZeroDivisionError")
    assert "simulate(3, SimConfig(steps=6))" in message


def test_the_summary_is_printed():
    command = [sys.executable, "-m", "isthmus.heal.sim", "--seeds", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    summary = json.loads(done.stdout)
    assert summary["schedules"] == 5
    assert summary["failed_seeds"] == []
