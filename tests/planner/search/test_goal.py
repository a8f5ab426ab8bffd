import pytest

from isthmus.errors import InfeasibleError, InputError
from isthmus.planner.search.answer import best_plan
from isthmus.units import Seconds

from .conftest import site


def chips(plan):
    return sum(each.num_ranks for each in plan.sites)


def test_most_tokens_takes_all_chips_and_least_cost_may_not(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=4, price=2.0))
    fast = best_plan(fleet, make_run())
    assert chips(fast) == 32
    cheap = best_plan(fleet, make_run(best="cost"))
    assert chips(cheap) <= chips(fast)
    assert cost(cheap) <= cost(fast) * (1 + 1e-9)
    assert cheap.expected.tokens_per_s <= fast.expected.tokens_per_s


def cost(plan, price=2.0):
    return chips(plan) / plan.expected.tokens_per_s * price


def test_fewest_chips_that_keep_a_deadline(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=8))
    whole = best_plan(fleet, make_run())
    relaxed_s = 3 * 10**10 / whole.expected.tokens_per_s
    few = best_plan(fleet, make_run(best="chips", deadline=Seconds(relaxed_s)))
    assert chips(few) < chips(whole)
    assert 10**10 / few.expected.tokens_per_s <= relaxed_s
    tight = best_plan(fleet, make_run(best="chips", deadline=Seconds(relaxed_s / 2.5)))
    assert chips(few) < chips(tight)


def test_an_impossible_deadline_says_the_least_time(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=1))
    with pytest.raises(InfeasibleError) as caught:
        best_plan(fleet, make_run(deadline=Seconds(60)))
    assert "least time" in caught.value.hint
    with pytest.raises(InfeasibleError, match="limits") as caught:
        best_plan(fleet, make_run(tokens=10**12, best="chips", deadline=Seconds(60), max_chips=8))
    assert "times the chips" in caught.value.hint


def test_a_limit_of_chips_is_kept(make_fleet, make_run):
    plan = best_plan(make_fleet(west=site(a100=4), east=site(h100=2)), make_run(max_chips=20))
    assert 0 < chips(plan) <= 20


def test_only_the_sites_that_are_named(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=1), east=site(h100=1))
    plan = best_plan(fleet, make_run(sites=["east"]))
    assert [each.name for each in plan.sites] == ["east"]
    with pytest.raises(InputError) as caught:
        best_plan(fleet, make_run(sites=["eats"]))
    assert "east" in caught.value.hint


def test_headroom_is_left_free(make_fleet, make_run):
    fleet = make_fleet(west=site(a100=1))
    for headroom in (0.05, 0.4):
        plan = best_plan(fleet, make_run(headroom=headroom))
        for pipeline in plan.sites[0].pipelines:
            for stage in pipeline.stages:
                assert stage.memory_bytes <= stage.memory_limit
                assert stage.memory_limit == pytest.approx(80 * 2**30 * (1 - headroom))
