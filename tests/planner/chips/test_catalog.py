"""The catalogue is whole and plausible, its spellings are of one chip each, and its page is fresh."""

from collections import Counter
from pathlib import Path

import pytest

from isthmus.chips.names import FAMILIES
from isthmus.planner.chips import reference
from isthmus.planner.chips.catalog import ALIASES, SOURCES, TABLE, catalog
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.chips.find import _key, find_chip

ROOT = Path(__file__).parents[3]
CHIPS = list(catalog().values())


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_a_datasheet_is_plausible(chip: ChipModel):
    assert chip.bf16_tflops or chip.fp32_tflops
    if chip.bf16_tflops and chip.fp32_tflops:
        assert 1.9 <= chip.bf16_tflops / chip.fp32_tflops <= 35
    if chip.fp8_tflops:
        assert 1 <= chip.fp8_tflops / chip.bf16_tflops <= 2.01
    if chip.fp4_tflops:
        assert 1.5 <= chip.fp4_tflops / chip.fp8_tflops <= 4.01
    assert chip.memory_gib > 0
    assert chip.memory_gb_s > 2 * chip.link_gb_s
    assert 0 < chip.nic_gb_s <= chip.link_gb_s
    assert chip.per_node > 1
    assert chip.node_domain == 0 or chip.node_domain > chip.per_node
    assert chip.source


def test_what_has_no_page_is_believed_to_the_last_value():
    fields = {"memory_gib", "memory_gb_s", "link_gb_s", "nic_gb_s"}
    for chip in CHIPS:
        if chip.source == SOURCES["-"]:
            known = {field for field in ("fp32_tflops", "bf16_tflops") if getattr(chip, field)}
            assert {field for field, origin in chip.origins.items() if origin == "believed"} >= fields | known


def test_the_marks_of_a_value_become_its_origin():
    assert catalog()["H100-80GB"].origins == {}
    assert catalog()["A800-80GB"].origins == {"nic_gb_s": "published"}
    assert catalog()["GB300"].origins["bf16_tflops"] == "derived"
    assert set(catalog()["cpu"].origins.values()) == {"believed"}


def test_a_link_is_counted_in_one_direction():
    assert catalog()["A100-80GB"].link_gb_s == 300  # NVLink 3 is sold as 600 GB/s
    assert catalog()["A100-80GB"].nic_gb_s == 25  # 200 Gb/s
    assert (catalog()["GB200"].per_node, catalog()["GB200"].node_domain) == (4, 72)


def test_every_spelling_names_one_chip():
    spellings = [_key(each) for chip in CHIPS for each in {chip.name, *chip.aliases}]
    assert [each for each, count in Counter(spellings).items() if count > 1] == []
    assert set(ALIASES) <= set(catalog())


def test_every_source_is_used():
    used = {line.split()[-1] for line in TABLE.strip().splitlines()[1:]}
    assert used == set(SOURCES)


@pytest.mark.parametrize("model", [model for models in FAMILIES.values() for model in models])
def test_every_model_that_a_backend_drives_has_a_datasheet(model: str):
    assert find_chip(model).name in catalog()


def test_the_page_is_fresh():
    written = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert written == reference.reference(), "stale: run `python -m isthmus.planner.chips.reference`"


def test_chips_are_described_as_plain_data():
    described = {row["name"]: row for row in reference.describe()}
    assert list(described) == list(catalog())
    assert described["H100-80GB"]["bf16_tflops"] == 989.4
