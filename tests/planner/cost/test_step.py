"""A step from its stages: bubble, exposed exchange, ZeRO stages, and the belief's law says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.planner.chips.find import find_chip
from isthmus.planner.cost.factors import Factors
from isthmus.planner.cost.network import Network
from isthmus.planner.cost.step import (
    StageCost,
    exchange_of,
    exposed_s,
    hidden_over,
    scaled,
    stage_cost,
    step_time,
)
from isthmus.planner.cost.tabulate import tabulate
from isthmus.planner.layout import Layout
from isthmus.spec.presets import presets

A100 = find_chip("a100")
NETWORK = Network.of(A100)
PLAIN = Factors(bubble=1.0, jitter=0.0, overhead=0.0)
SECONDS = st.floats(1e-4, 10.0)


def stages(count: int, seconds: float = 1.0) -> list[StageCost]:
    return [StageCost(seconds / 3, seconds * 2 / 3, 0.0, 0.0, 0.0)] * count


def test_even_stages_have_the_bubble_of_the_paper():
    """(p - 1) / m of the ideal time, (p - 1) / (v m) with v chunks (arXiv 2104.04473, sec. 2.2)."""
    plain = step_time(stages(4), Layout(pp=4, micro_batches=12), 1, PLAIN)
    assert plain.bubble_s / plain.compute_s == pytest.approx(3 / 12)
    chunked = step_time(stages(4), Layout(pp=4, micro_batches=12, virtual=3), 1, PLAIN)
    assert chunked.bubble_s / chunked.compute_s == pytest.approx(3 / 36)


def test_the_slowest_stage_sets_the_pace():
    slow = [*stages(3), *stages(1, 2.0)]
    time = step_time(slow, Layout(pp=4, micro_batches=10), 1, PLAIN)
    assert time.compute_s == pytest.approx(20.0)
    assert time.bubble_s == pytest.approx(3.0)


@given(SECONDS, SECONDS)
def test_exchange_shows_less_the_more_compute_there_is(window: float, exchange: float):
    exposed = exposed_s(window, exchange)
    assert 0 <= exposed <= exchange * (1 + 1e-9)
    assert exposed_s(2 * window, exchange) <= exposed + 1e-12
    assert exposed + window >= max(window, exchange) * (1 - 1e-9)


def test_exchange_without_compute_shows_whole():
    assert exposed_s(0.0, 2.0) == pytest.approx(2.0)
    assert exposed_s(2.0, 0.0) == 0.0


def test_zero_stages_move_as_many_bytes_as_their_paper_says():
    """Stage 1 moves as much as an all-reduce, stage 3 half as much again (arXiv 1910.02054, sec. 7)."""
    plain, first, third = (exchange_of(A100, NETWORK, Layout(dp=8, sharding=stage)) for stage in (0, 1, 3))
    share = 7 / 8 / (A100.link_gb_s * 1e9)
    assert plain.dense_s == pytest.approx(2 * share)
    assert first.dense_s == pytest.approx(share)
    assert first.gather_s == pytest.approx(share / 2)
    assert third.dense_s == pytest.approx(1.5 * share)
    assert first.optimizer_s == pytest.approx(plain.optimizer_s / 8)


def test_weights_are_gathered_in_every_micro_batch_of_zero_3():
    layout = Layout(dp=8, sharding=3)
    once, often = (exchange_of(A100, NETWORK, replace(layout, micro_batches=m)) for m in (1, 4))
    assert often.dense_s == pytest.approx(4 * once.dense_s)
    assert hidden_over(replace(layout, micro_batches=4)) == 1
    assert hidden_over(Layout(micro_batches=4)) == 4


def test_replicas_of_one_exchange_nothing():
    exchange = exchange_of(A100, NETWORK, Layout())
    assert exchange.dense_s == exchange.expert_s == exchange.latency_s == exchange.gather_s == 0


@given(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.sampled_from([0, 1, 3]))
def test_parts_add_up_and_waiting_grows_with_nodes(pp: int, scale: int, sharding: int):
    layout = Layout(pp=pp, dp=4 * scale, micro_batches=8, sharding=sharding)
    model, factors = presets["llama-3-8b"], Factors()
    table = tabulate(model, A100, NETWORK, layout, factors)
    exchange = scaled(exchange_of(A100, NETWORK, layout), factors)
    size = model.num_layers // pp
    bounds = [(1 + stage * size, 1 + (stage + 1) * size) for stage in range(pp)]
    bounds[0] = (0, bounds[0][1])
    bounds[-1] = (bounds[-1][0], bounds[-1][1] + 1)
    costs = [stage_cost(table, range(*each), 0, layout, exchange) for each in bounds]
    near, far = (step_time(costs, layout, nodes, factors) for nodes in (1, 64))
    assert near.total_s == pytest.approx(sum(near))
    assert near.waiting_s == 0 < far.waiting_s
    assert all(each >= 0 for each in near)
