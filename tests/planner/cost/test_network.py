"""Alpha-beta formulas of collectives, and which line a group runs on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.planner.chips.find import find_chip
from isthmus.planner.cost.network import (
    Line,
    Network,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    send_s,
)

LINE = Line(latency_s=5e-6, gb_s=100.0)
SIZES = st.integers(2, 512)
BYTES = st.floats(1e3, 1e11)


def test_a_ring_passes_all_but_its_own_part():
    """8 chips, 800 MB at 100 GB/s: 7 messages of 100 MB, 1 ms and 5 us each."""
    assert all_gather_s(LINE, 8, 8e8) == pytest.approx(7 * (5e-6 + 1e-3))
    assert all_reduce_s(LINE, 8, 8e8) == pytest.approx(2 * 7 * (5e-6 + 1e-3))


def test_all_to_all_keeps_a_chips_own_part():
    assert all_to_all_s(LINE, 4, 4e8) == pytest.approx(3 * 5e-6 + 3e-3)
    assert send_s(LINE, 1e9) == pytest.approx(5e-6 + 1e-2)


@given(BYTES)
def test_nobody_to_talk_to_costs_nothing(num_bytes: float):
    assert all_gather_s(LINE, 1, num_bytes) == all_reduce_s(LINE, 1, num_bytes) == 0
    assert all_to_all_s(LINE, 1, num_bytes) == 0


@given(SIZES, BYTES)
def test_more_bytes_and_more_chips_take_longer(size: int, num_bytes: float):
    for collective in (all_gather_s, all_to_all_s):
        assert collective(LINE, size, num_bytes) < collective(LINE, size, 2 * num_bytes)
        assert collective(LINE, size, num_bytes) < collective(LINE, size + 1, num_bytes)


@given(SIZES, BYTES)
def test_bandwidth_bounds_a_collective(size: int, num_bytes: float):
    assert all_gather_s(LINE, size, num_bytes) >= (size - 1) / size * num_bytes / 100e9


def test_groups_inside_a_node_use_its_link_and_wider_ones_share_the_nics():
    network = Network.of(find_chip("h100"))
    assert network.line(8, 1) == network.link
    assert network.line(4, 2) == network.link
    assert network.line(16, 8).gb_s == pytest.approx(network.nic.gb_s)
    assert network.line(16, 1).gb_s == pytest.approx(min(network.link.gb_s, 8 * network.nic.gb_s))


def test_a_rack_of_72_is_one_domain():
    network = Network.of(find_chip("gb200"))
    assert network.line(64, 1) == network.link
    assert network.line(128, 1) != network.link
