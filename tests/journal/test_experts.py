"""What is kept of a site's experts: bounded, nothing lost, and by which layers are judged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.journal import events as e
from isthmus.journal.experts import (
    DEAD_CHOICES,
    GAP_S,
    MAX_COLUMNS,
    RECENT_EVENTS,
    Experts,
    layer_figures,
    merged,
)
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.sinks.prometheus import exposition
from isthmus.journal.sinks.tensorboard import scalars
from isthmus.journal.view import RunView


def counted(
    at_s: float,
    load: list[list[int]],
    site: str = "a",
    entropy: float = 1.0,
    coef: float = 0.01,
    similarity: float | None = None,
) -> e.ExpertsCounted:
    return e.ExpertsCounted(
        wall_s=at_s, source=f"rank/{site}/0", site=site, step=int(at_s), steps=2,
        layers=[2 * i for i in range(len(load))], load=load, dropped=[[c // 10 for c in row] for row in load],
        entropy=[entropy] * len(load), coef=[coef] * len(load),
        similarity=[] if similarity is None else [similarity] * len(load),
    )  # fmt: skip


@given(st.integers(1, 5 * MAX_COLUMNS))
def test_columns_are_bounded_and_lose_no_choice(count: int):
    experts = Experts()
    for i in range(count):
        experts = experts.add(counted(5.0 * i, [[i, 1], [0, i + 1]], entropy=float(i)), 5.0 * i)
    columns = experts.columns
    assert len(columns) <= MAX_COLUMNS
    assert sum(column.choices for column in columns) == sum(range(count)) + count
    assert [column.end_s for column in columns[:-1]] == [column.start_s for column in columns[1:]]
    weighted = sum(column.choices * column.entropy[0] for column in columns)
    assert weighted == pytest.approx(sum((i + 1) * i for i in range(count)))
    assert len(experts.recent) == min(count, RECENT_EVENTS)


def test_fewer_columns_of_a_model_with_many_experts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("isthmus.journal.experts.MAX_COUNTS", 100)
    experts = Experts()
    for i in range(50):
        experts = experts.add(counted(5.0 * i, [[1] * 10]), 0.0)
    assert (len(experts.columns), experts.stride, experts.count) == (7, 8, 2)


def test_a_long_silence_is_a_gap():
    experts = Experts()
    for at_s, busy_s in ((5.0, 5.0), (10.0, 9.0), (GAP_S + 20.0, 13.0)):
        experts = experts.add(counted(at_s, [[1, 1]]), busy_s)
    spans = [(column.start_s, column.end_s) for column in experts.columns]
    assert spans == [(0.0, 5.0), (5.0, 10.0), (GAP_S + 16.0, GAP_S + 20.0)]


def test_another_shape_begins_anew():
    experts = Experts().add(counted(1.0, [[1, 1]]), 1.0).add(counted(2.0, [[1, 1, 1]]), 2.0)
    assert [len(column.load[0]) for column in experts.columns] == [3]
    assert experts.columns[0].start_s == 1.0


def test_means_are_weighted_by_the_choices():
    first, second = (
        Experts().add(counted(1.0, [[3 * n, n]], entropy=n, coef=0.1 * n), 1.0).columns[0] for n in (1, 3)
    )
    both = merged(first, second)
    assert both.load == ((12, 4),)
    assert both.entropy[0] == pytest.approx((4 * 1 + 12 * 3) / 16)
    assert both.coef[0] == pytest.approx((4 * 0.1 + 12 * 0.3) / 16)
    assert merged(first, first).coef == first.coef


def test_figures_of_layers():
    view = fold([counted(1.0, [[300, 100], [200, 200]], entropy=math.log(2) / 2, similarity=0.25)])
    first, second = figures(view).sites[0].experts
    assert (first.layer, second.layer) == (0, 2)
    assert (first.max_load, first.min_load, second.max_load) == (1.5, 0.5, 1.0)
    assert (first.drop_rate, first.coef, first.similarity) == (0.1, 0.01, 0.25)
    assert first.entropy == pytest.approx(0.5)
    assert figures(RunView()).experts == []


def test_a_similarity_stays_until_the_next_one():
    view = fold([counted(1.0, [[1, 1]], similarity=0.25), counted(2.0, [[1, 1]])])
    (only,) = figures(view).experts
    assert only.similarity == 0.25
    assert math.isnan(figures(fold([counted(2.0, [[1, 1]])])).experts[0].similarity)
    assert view.sites["a"].experts.similarity.points() == ((1.0, 0.25),)


def test_an_expert_is_dead_once_many_choices_in_a_row_passed_it_by():
    few = [counted(1.0, [[DEAD_CHOICES, DEAD_CHOICES - 2, 0, DEAD_CHOICES]])]
    assert figures(fold(few)).experts[0].dead == []
    alive = counted(1.0, [[DEAD_CHOICES] * 4])
    starved = [counted(2.0 + i, [[2 * DEAD_CHOICES, DEAD_CHOICES, 0, DEAD_CHOICES]]) for i in range(12)]
    assert figures(fold([alive, *starved[:-1]])).experts[0].dead == []
    view = fold([alive, *starved])
    assert figures(view).experts[0].dead == [2]
    assert figures(fold([counted(99.0, [[1] * 4])], view)).experts[0].dead == []


def test_dead_in_the_run_is_dead_at_all_sites():
    loads = {"a": [[4 * DEAD_CHOICES, 0, 0]], "b": [[4 * DEAD_CHOICES, 1, 0]]}
    shown = figures(fold([counted(1.0, load, site) for site, load in loads.items()]))
    assert [site.experts[0].dead for site in shown.sites] == [[1, 2], [2]]
    assert shown.experts[0].dead == [2]


def test_what_counts_nothing_is_shown():
    view = fold([counted(1.0, [[0, 0]]), counted(2.0, [[0, 0]]), counted(3.0, [])])
    (only,) = layer_figures([view.sites["a"].experts])
    assert (only.max_load, only.min_load, only.drop_rate, only.dead) == (1.0, 1.0, 0.0, [])


def test_metrics_have_a_gauge_for_each_layer_and_none_for_a_dense_model():
    shown = exposition(figures(fold([counted(1.0, [[4 * DEAD_CHOICES, 0], [1, 1]])])))
    assert 'isthmus_expert_load_max_ratio{run="",site="a",layer="0"} 2\n' in shown
    assert 'isthmus_experts_dead{run="",site="a",layer="0"} 1\n' in shown
    assert 'isthmus_expert_similarity{run="",site="a",layer="2"} NaN\n' in shown
    assert "expert" not in exposition(figures(RunView()))


def test_curves_for_tensorboard():
    found = scalars(counted(3.0, [[300, 100]], similarity=0.5))
    assert found is not None
    site, step, values = found
    assert (site, step) == ("a", 3)
    assert values["expert_max_load/layer0"] == 1.5
    assert values["expert_similarity/layer0"] == 0.5
    assert set(scalars(counted(3.0, [[1]]))[2]) == set(values) - {"expert_similarity/layer0"}  # pyright: ignore
