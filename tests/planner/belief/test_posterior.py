"""The belief recovers known factors, moves what a run's groups share, and knows what it does not know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import observe, query
from msgspec.structs import replace

from isthmus.errors import CorruptError
from isthmus.planner.belief.file import Belief, calibrated, decode, encode, make_belief, shipped
from isthmus.planner.belief.law import step_log
from isthmus.planner.belief.posterior import condition
from isthmus.planner.belief.prior import Scales, covariance, guess, kinship
from isthmus.planner.belief.query import FACTORS, Groups, design
from isthmus.planner.cost.factors import Factors


def width(estimate) -> float:
    return float(np.log(estimate.high_s / estimate.low_s))


def test_the_derivatives_are_those_of_the_law():
    runs, theta = design([query(seed) for seed in range(6)]), guess()
    _, slopes = step_log(theta, runs)
    for index in range(len(FACTORS)):
        step = np.zeros(len(FACTORS))
        step[index] = 1e-5
        numeric = (step_log(theta + step, runs)[0] - step_log(theta - step, runs)[0]) / 2e-5
        assert np.allclose(slopes[:, index], numeric, atol=1e-7)


def test_without_runs_the_prior_speaks():
    prior = condition([])
    asked = query(1)
    said = prior.predict([asked])[0]
    assert said.step_s == pytest.approx(float(np.exp(step_log(guess(), design([asked]))[0][0])))
    assert width(said) > 0.5
    assert prior.predict([]) == []
    assert prior.factors(Groups()).matmul == pytest.approx(Factors().matmul)


def test_known_factors_are_recovered():
    moved = {"attention": 0.4, "elementwise": -0.3, "launch": 0.5}
    runs = [observe(query(seed, place=seed * 9.0), str(seed), **moved) for seed in range(80)]
    posterior = condition(runs)
    found = posterior.factors(runs[0].query.groups)
    for name, shift in moved.items():
        factor = np.log(getattr(found, name) / getattr(Factors(), name))
        assert factor == pytest.approx(shift, abs=0.1)
    elsewhere = posterior.theta[FACTORS.index("attention")] - guess()[FACTORS.index("attention")]
    assert 0.05 < elsewhere < 0.4, "other systems are believed to differ in part"


def test_what_was_learned_predicts_what_was_not_seen():
    moved = {"operands": 0.5, "sync": -0.4, "loss": 0.4}
    runs = [observe(query(seed, place=seed * 9.0), str(seed), **moved) for seed in range(60)]
    fresh = [observe(query(seed, place=-seed), str(seed), **moved) for seed in range(1000, 1020)]
    said = condition(runs).predict([each.query for each in fresh])
    errors = [abs(np.log(one.step_s / other.step_s)) for one, other in zip(said, fresh, strict=True)]
    assert np.mean(errors) < 0.03


def test_one_row_moves_its_own_group_and_others_little():
    runs = [observe(query(seed, place=seed * 9.0), str(seed)) for seed in range(40)]
    belief = make_belief(runs, "test")
    slow = observe(query(900, framework="two", chip="b200"), "slow", offset=0.4)
    asked = [query(901, framework="two", chip="b200"), query(902, framework="one")]
    before, after = belief.posterior().predict(asked), calibrated(belief, [slow]).predict(asked)
    own = np.log(after[0].step_s / before[0].step_s)
    other = np.log(after[1].step_s / before[1].step_s)
    assert own > 0.2
    assert abs(other) < 0.1 * own


def test_a_row_that_the_belief_rests_on_is_not_counted_twice():
    runs = [observe(query(seed), str(seed)) for seed in range(10)]
    belief = make_belief(runs, "test")
    again = calibrated(belief, runs[:3])
    assert np.array_equal(again.weights, belief.posterior().weights)


def test_intervals_shrink_with_rows_and_widen_with_doubt():
    asked = query(500)
    widths = [
        width(condition([observe(query(seed), str(seed)) for seed in range(count)]).predict([asked])[0])
        for count in (0, 5, 40)
    ]
    assert widths[0] > widths[1] > widths[2]
    posterior = condition([observe(query(seed), str(seed)) for seed in range(5)])
    doubtful = posterior.predict([replace(asked, doubt=0.2)])[0]
    assert width(doubtful) > width(posterior.predict([asked])[0])


def test_intervals_hold_nine_of_ten():
    chance = np.random.default_rng(7)
    noise = Scales().scatter

    def noisy(seed: int):
        return observe(query(seed, place=seed * 9.0), str(seed), offset=float(chance.normal(0, noise)))

    fresh = [noisy(seed) for seed in range(2000, 2200)]
    said = condition([noisy(seed) for seed in range(100)]).predict([each.query for each in fresh])
    inside = np.mean(
        [one.low_s <= other.step_s <= one.high_s for one, other in zip(said, fresh, strict=True)]
    )
    assert 0.85 <= inside <= 1.0


def test_a_run_far_off_counts_less():
    runs = [observe(query(seed), str(seed)) for seed in range(30)]
    wild = observe(query(31), "wild", offset=1.0)
    with_it, without = condition([*runs, wild]), condition(runs)
    asked = query(400)
    moved = np.log(with_it.predict([asked])[0].step_s / without.predict([asked])[0].step_s)
    assert abs(moved) < 0.05
    assert with_it.noise[-1] > 3 * with_it.noise[:-1].max()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12, unique=True))
def test_covariance_is_symmetric_and_positive(seeds: list[int]):
    runs = design([query(seed, framework=str(seed % 3), place=float(seed % 5)) for seed in seeds])
    slopes = step_log(guess(), runs)[1]
    scales = Scales()
    total = covariance(kinship(runs, runs, scales), (slopes, slopes), scales)
    assert np.allclose(total, total.T)
    assert np.linalg.eigvalsh(total).min() > -1e-9


def test_runs_that_share_nothing_known_share_no_offset():
    nobody = design([replace(query(1), groups=Groups())])
    assert kinship(nobody, nobody, Scales()).factors.item() == 1.0
    known = design([query(1)])
    assert kinship(known, known, Scales()).factors.item() > 1.0


def test_the_same_runs_give_the_same_file():
    runs = [observe(query(seed), str(seed)) for seed in range(12)]
    one, other = (encode(make_belief(runs, "test")) for _ in range(2))
    assert one == other
    read = decode(one, "here")
    assert read.rests_on == "fitted on 12 published runs of 1 sources"
    asked = [query(77)]
    direct = make_belief(runs, "test").posterior().predict(asked)[0]
    assert read.posterior().predict(asked)[0].step_s == pytest.approx(direct.step_s, rel=1e-9)


def test_a_file_of_another_model_is_refused():
    belief = make_belief([observe(query(1), "1")], "test")
    with pytest.raises(CorruptError, match="not a belief"):
        decode(b"{}", "here")
    with pytest.raises(CorruptError, match="another cost model"):
        decode(encode(replace(belief, factors=["matmul"])), "here")


def test_the_shipped_belief_is_sane():
    belief: Belief = shipped()
    assert "published runs" in belief.rests_on
    posterior = belief.posterior()
    for generation in ("ampere", "hopper", "blackwell"):
        factors = posterior.factors(Groups(family="megatron", generation=generation, recipe="bf16"))
        assert 1.0 < factors.matmul * factors.total < 2.2
        assert 1.0 < factors.attention < 6.0
        assert 0.3 < factors.bubble < 2.0
        assert all(getattr(factors, name) > 0 for name in FACTORS)


def test_groups_of_a_chip_give_its_factors():
    """The factors of a group predict what the posterior does for it, but for the smooth residual."""
    runs = [observe(query(seed, place=seed * 9.0), str(seed), offset=0.2) for seed in range(40)]
    posterior = condition(runs)
    groups = runs[0].query.groups
    factors = posterior.factors(groups)
    theta = np.log([getattr(factors, name) for name in FACTORS])
    asked = query(555, place=1e6)
    law = float(step_log(theta, design([asked]))[0][0]) + np.log(factors.total)
    assert law == pytest.approx(np.log(posterior.predict([asked])[0].step_s), abs=0.02)
