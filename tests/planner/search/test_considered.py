"""The table of reasons: what is compared with what."""

import pytest
from msgspec.structs import replace

from isthmus.planner.search.answer import best_plan
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import ParallelSpec

from .conftest import MODEL, site


def test_unlike_pools_are_places_of_their_own(make_fleet, make_run):
    plan = best_plan(make_fleet(a=site(h100=1, a100=1)), make_run(batch=96))
    chosen = [row for row in plan.considered if row.chosen]
    assert sum(row.sequences for row in chosen) == pytest.approx(plan.batch_size)
    for row in plan.considered:
        assert set(row.place.removeprefix("a ").split(" + ")) <= {"h100", "a100"}
    if len(chosen) > 1:
        assert all(row.sequences < plan.batch_size for row in chosen)


def test_chips_left_idle_say_what_they_would_add(make_fleet, make_run):
    """A chip of a tenth of the speed, for a batch that the others take alone."""
    plan = best_plan(make_fleet(a=site(h100=1, t4=1)), make_run(batch=8))
    idle = [row for row in plan.considered if row.why.startswith("left idle")]
    used = {stage.chip for each in plan.sites for line in each.pipelines for stage in line.stages}
    if used == {"h100"}:
        assert all(row.slower >= -1e-9 for row in idle)


def test_at_most_as_many_rows_as_are_told(make_fleet, make_run):
    fleet = make_fleet(a=site(h100=2, a100=1), b=site(ascend910b=2), c=site(a100=2))
    plan = best_plan(fleet, make_run(batch=128))
    assert len(plan.considered) <= 16
    assert {row.place.split()[0] for row in plan.considered if row.chosen} == {s.name for s in plan.sites}
    names = [(row.place, row.name) for row in plan.considered]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_heads": 12, "num_kv_heads": 12}, "tp 8: 12 heads do not divide"),
        ({"num_heads": 24, "num_kv_heads": 3}, "tp 2: 3 key-value heads are not shared evenly"),
        ({"ffn_size": 8190}, "tp 4: a width of the model does not divide"),
        ({"num_experts": 60, "top_k": 4}, "ep 8, 16, 32: 60 experts do not divide"),
        (
            {"num_experts": 256, "top_k": 4, "expert_ffn_size": 256},
            "ep above 64: messages to so many chips become too small",
        ),
        ({}, "tp above 8: a node has 8 chips"),
        ({}, "cp above 1: a chip would keep less than 4,096 of a sequence's 4,096 tokens"),
    ],
)
def test_degrees_that_are_not_tried(make_fleet, make_run, change, line):
    model: ModelSpec = replace(MODEL, **change)
    plan = best_plan(make_fleet(a=site(h100=2)), make_run(model))
    assert line in plan.untried


def test_what_is_fixed_by_hand_is_told(make_fleet, make_run):
    run = replace(make_run(), parallel=ParallelSpec(tp=2, cp=1))
    plan = best_plan(make_fleet(a=site(h100=2)), run)
    assert "tp other than 2: fixed by parallel.tp" in plan.untried
    assert all("tp 2" in row.name for row in plan.considered)


def test_the_same_chips_at_two_speeds_are_two_places(make_fleet, make_run):
    nodes = [NodeSpec(chips={"h100": 8}), NodeSpec(chips={"h100": 8}, speed=0.5)]
    plan = best_plan(FleetSpec(sites={"a": SiteSpec(nodes=nodes)}), make_run(batch=96))
    assert {row.place for row in plan.considered} >= {"a h100", "a h100 at 0.5"}
