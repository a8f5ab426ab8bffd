"""Any spelling finds the chip; a fleet's own chips go first; what is unknown is refused with a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InputError
from isthmus.planner.chips.catalog import catalog
from isthmus.planner.chips.find import find_chip
from isthmus.spec.fleet import ChipSpec, FleetSpec
from isthmus.units import Bandwidth, Bytes

SPELLINGS = {
    "A100-80GB": ["A100-80G", "A100-80G-SXM", "A100-80GB", "a100", "NVIDIA A100-SXM4-80GB", "a100_80gb"],
    "A100-40GB": ["A100-40G", "NVIDIA A100-SXM4-40GB"],
    "H100-80GB": ["H100", "H100-80G", "NVIDIA H100 80GB HBM3", "h100-sxm"],
    "H100-96GB-500W": ["H100-96G-500W"],
    "GH200-96GB": ["GH-96x64", "GH-96x4", "gh200", "NVIDIA GH200 480GB"],
    "GB200": ["GB200", "GB200 (per GPU)"],
    "B300": ["B300"],
    "A800-80GB": ["A800-80G", "NVIDIA A800-SXM4-80GB"],
    "H800-80GB": ["H800-80G", "h800"],
    "H200": ["H200-SXM", "NVIDIA H200"],
    "RTX-4090": ["RTX4090", "NVIDIA GeForce RTX 4090"],
    "RTX-2080": ["RTX-2080"],
    "Titan-RTX": ["TitanRTX", "Titan RTX"],
    "V100-32GB": ["v100", "Tesla V100-SXM2-32GB"],
    "C500": ["MetaX C500"],
    "Ascend-910B3": ["ascend910b", "Ascend 910B", "Ascend NPU (910-series; README does not name it)"],
    "Ascend-910A": ["Ascend 910 (2019)"],
    "MLU370-X8": ["Cambricon MLU370-X8", "mlu370"],
    "S4000": ["Moore Threads S4000", "MTT S4000"],
    "MI300X": ["MI300X", "AMD Instinct MI300X"],
    "cpu": ["cpu", "CPU"],
}


@pytest.mark.parametrize(
    ("spelling", "name"), [(each, name) for name, all_ in SPELLINGS.items() for each in all_]
)
def test_a_spelling_finds_its_chip(spelling: str, name: str):
    assert find_chip(spelling).name == name


@given(st.sampled_from(sorted(catalog())), st.data())
def test_case_and_separators_do_not_matter(name: str, data: st.DataObject):
    separator = data.draw(st.sampled_from(["", "-", "_", " "]))
    spelling = separator.join(data.draw(st.sampled_from([part, part.lower()])) for part in name.split("-"))
    assert find_chip(spelling) is catalog()[name]


@pytest.mark.parametrize("family", ["cuda", "ascend", "Ascend", "gpu"])
def test_a_family_is_no_model(family: str):
    with pytest.raises(InputError, match="family of chips") as raised:
        find_chip(family)
    assert "isthmus probe" in (raised.value.hint or "")


def test_the_unknown_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match="unknown chip 'a110'") as raised:
        find_chip("a110")
    assert "a100" in (raised.value.hint or "")
    assert "fleet.yaml" in (raised.value.hint or "")


@given(st.text(max_size=30))
def test_any_other_text_is_refused(text: str):
    with pytest.raises(InputError, match="unknown chip"):
        find_chip(f"no {text} chip")


def test_a_fleet_overrides_a_chip_of_the_same_name():
    fleet = FleetSpec(chips={"h800": ChipSpec(like="H800", nic=Bandwidth(200e9), fp8_tflops=1500.0)})
    chip = find_chip("H800", fleet)
    base = find_chip("H800")
    assert (chip.name, chip.nic_gb_s, chip.fp8_tflops) == ("h800", 25.0, 1500.0)
    assert (chip.bf16_tflops, chip.generation, chip.memory_gib) == (base.bf16_tflops, "hopper", 80.0)
    assert "nic_gb_s" not in chip.origins
    assert chip.origins["link_gb_s"] == "believed"
    assert find_chip("H800-80G", fleet) == base


def test_a_fleet_names_a_chip_through_another():
    chips = {"ours": ChipSpec(like="theirs", memory=Bytes(64 * 2**30)), "theirs": ChipSpec(like="a100")}
    chip = find_chip("Ours", FleetSpec(chips=chips))
    assert (chip.memory_gib, chip.bf16_tflops) == (64.0, 312.0)


def test_chips_that_are_like_each_other_are_refused():
    chips = {"ours": ChipSpec(like="theirs"), "theirs": ChipSpec(like="ours")}
    with pytest.raises(InputError, match="unknown chip 'ours'"):
        find_chip("ours", FleetSpec(chips=chips))


def test_a_chip_like_none_needs_all_its_values():
    with pytest.raises(InputError, match="lacks bf16_tflops, memory_bandwidth, link, nic, collectives"):
        find_chip("x1", FleetSpec(chips={"x1": ChipSpec(memory=Bytes(2**30))}))
    whole = ChipSpec(
        bf16_tflops=100.0,
        memory=Bytes(2**34),
        memory_bandwidth=Bandwidth(8e12),
        link=Bandwidth(8e11),
        nic=Bandwidth(1e11),
        collectives="gloo",
    )
    chip = find_chip("X-1", FleetSpec(chips={"x1": whole}))
    assert (chip.memory_gib, chip.memory_gb_s, chip.link_gb_s, chip.nic_gb_s) == (16.0, 1000.0, 100.0, 12.5)
    assert (chip.generation, chip.collectives, chip.peak_tflops("fp8")) == ("x1", "gloo", 100.0)
