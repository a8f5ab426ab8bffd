"""Least time of parts that share a batch, against all choices of candidates and micro-batches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.planner.search.front import CLOSE, Front, Lines, least_time

MOST = 12
"""Micro-batches that the brute force looks at; no batch below needs more."""

candidate = st.fixed_dictionaries(
    {
        "each_s": st.floats(0.1, 3.0),
        "rest_s": st.floats(0.0, 2.0),
        "slower": st.floats(1.0, 1.5),
        "later_s": st.floats(0.0, 2.0),
        "gain": st.integers(1, 6),
        "loose": st.floats(1.0, 1.3),
        "turn": st.integers(1, 3),
        "fits_below": st.sampled_from([1, 2, 4, 1000]),
    }
)
"""A candidate that takes (slower a) m + c + later_s: more than its line says, unless it does not fit."""
parts = st.lists(st.lists(candidate, min_size=1, max_size=5), min_size=1, max_size=3)


def seconds(case, count):
    fits = count < case["fits_below"]
    return case["each_s"] * case["slower"] * count + case["rest_s"] + case["later_s"] if fits else np.inf


def front_of(cases):
    def column(name):
        return np.array([each[name] for each in cases], float)

    def build(row, count):
        time_s = seconds(cases[row], count)
        return (f"{row} x {count}", time_s) if np.isfinite(time_s) else None

    lines = Lines(
        column("each_s"),
        column("rest_s"),
        column("gain"),
        column("gain") * column("loose"),
        column("turn").astype(np.int64),
    )
    tighten = lambda row: (0.0, cases[row]["later_s"] / 2)  # noqa: E731
    return Front(lines, tighten, build, lambda row: cases[row]["fits_below"])


def brute_time(every, batch, gain):
    """Over all choices of one candidate and its micro-batches for each part, or none."""
    choices = [
        [(0.0, 0.0)]
        + [
            (seconds(case, count), gain(case) * count)
            for case in cases
            for count in range(case["turn"], MOST + 1, case["turn"])
        ]
        for cases in every
    ]
    enough = [
        max(time_s for time_s, _ in chosen)
        for chosen in itertools.product(*choices)
        if sum(taken for _, taken in chosen) >= batch
    ]
    return min(enough, default=np.inf)


@given(parts, st.integers(1, 10))
def test_it_is_the_least_over_all_choices(every, batch):
    found = least_time([front_of(cases) for cases in every], batch, whole=True)
    expected = brute_time(every, batch, lambda case: case["gain"])
    assert found.bound_s <= expected * (1 + 1e-12)
    if np.isfinite(expected):
        assert expected <= found.step_s * (1 + 1e-12)
        assert found.step_s <= expected * (1 + 2 * CLOSE)
    else:
        assert not found.chosen


@given(parts, st.integers(1, 10))
def test_the_choice_takes_the_batch_in_that_time(every, batch):
    found = least_time([front_of(cases) for cases in every], batch, whole=True)
    if found.chosen:
        taken, times = 0, []
        for cases, choice in zip(every, found.chosen, strict=True):
            if choice is not None:
                row, count = choice
                assert count % cases[row]["turn"] == 0
                taken += cases[row]["gain"] * count
                times.append(seconds(cases[row], count))
        assert taken >= batch
        assert max(times) <= found.step_s


@given(parts, st.integers(1, 10))
def test_chips_that_need_not_come_out_whole_are_never_slower(every, batch):
    fronts = [front_of(cases) for cases in every]
    whole = least_time(fronts, batch, whole=True)
    cut = least_time(fronts, batch, whole=False, limit_s=whole.step_s)
    expected = brute_time(every, batch, lambda case: case["gain"] * case["loose"])
    assert cut.bound_s <= min(whole.step_s, expected) * (1 + 1e-12)
    assert cut.step_s <= whole.step_s


@given(parts, st.integers(1, 10), st.floats(0.5, 2.0))
def test_a_known_time_only_cuts_the_search_short(every, batch, times):
    free = least_time([front_of(cases) for cases in every], batch, whole=True)
    if np.isfinite(free.step_s):
        limited = least_time([front_of(cases) for cases in every], batch, True, free.step_s * times)
        if times > 1 + 2 * CLOSE:
            assert limited.step_s == pytest.approx(free.step_s, rel=2 * CLOSE)
        elif times < 1 - 2 * CLOSE:
            assert not limited.chosen


def test_a_search_that_gives_up_proves_nothing(monkeypatch):
    case = {"each_s": 1.0, "rest_s": 0.5, "slower": 1.2, "later_s": 0.5, "gain": 2, "loose": 1.0, "turn": 1}
    cases = [case | {"fits_below": 1000}]
    whole = least_time([front_of(cases)], 8, whole=True)
    assert whole.bound_s == pytest.approx(seconds(cases[0], 4), rel=2 * CLOSE)
    monkeypatch.setattr("isthmus.planner.search.front.MAX_SPLITS", 0)
    assert least_time([front_of(cases)], 8, whole=True, limit_s=100.0).bound_s == 0
