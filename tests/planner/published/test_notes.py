"""What notes say is read; what is no number, or an absurd one, is not stated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.planner.published import notes


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("grad_accum=8; GBS=512", 8),
        ("micro_num = 4", 4),
        ("GAS=0", 0),
        ("GAS=-3", 0),
        ("GAS=" + "9" * 40, 0),
        ("nothing", 0),
    ],
)
def test_a_number_by_any_of_its_names(said: str, found: int):
    assert notes.stated(notes.ACCUMULATION, said) == found


def test_layers_of_stages():
    assert notes.layer_split("layer split 7/9/9/9, tied") == [7, 9, 9, 9]
    for strange in ("layer split //", "layer split 7/", "layer split", "split 7/9"):
        assert notes.layer_split(strange) == []


def test_bandwidth_of_a_node():
    assert notes.node_gb_s("8x200 Gb IB") == 200
    assert notes.node_gb_s("nodes with 800 Gb/s RoCE") == 100
    assert notes.node_gb_s("0x0 Gb") == notes.node_gb_s("fast") == notes.node_gb_s("9" * 40 + "x8 Gb") == 0


def test_memory_of_a_chip():
    assert notes.total_gib("used/total 60.5/80") == 80
    assert notes.total_gib("used/total 60/") == 0


@given(st.text(alphabet="0123456789x/=. GBSGASlayersplitused/total-", max_size=80))
def test_any_text_gives_bounded_numbers(text: str):
    assert 0 <= notes.stated("GBS", text) < 1e9
    assert all(0 <= size < 1e6 for size in notes.layer_split(text))
    assert 0 <= notes.node_gb_s(text) < 1e9
    assert 0 <= notes.total_gib(text) < 1e7
