"""Settings of the sources of published runs, and the memory that follows from them."""

import pytest
from msgspec.structs import replace

from isthmus.planner.cost.convention import GIB
from isthmus.planner.published.case import case_of
from isthmus.planner.published.memory import peak_bytes
from isthmus.planner.published.rows import Row
from isthmus.planner.published.usual import USUAL, memory_case

FLAGPERF = Row(
    id="a",
    line=2,
    source="FlagPerf",
    url_or_repo_path="FlagOpen/FlagPerf:training/nvidia/llama3_8B-megatron/README.md",
    model="Llama3-8B",
    chip="A100-80G",
    n_chips=8,
    tp=2,
    pp=2,
    dp=2,
    precision="bf16",
    memory_used_gib=51,
    notes="mem GiB used/total 51/80",
)
SAILOR = Row(
    id="b",
    line=3,
    source="Sailor SOSP25 validation (measured)",
    url_or_repo_path="eth-easl/sailor:Planner/simulations/validation/clariden/GPT-NEO/N4/plan.json",
    model="GPT-Neo-2.7B",
    seq=2048,
    chip="H100-80GB",
    n_chips=16,
    tp=4,
    pp=2,
    dp=2,
    micro_batch=1,
    global_batch=64,
    memory_used_gib=18.64,
    notes="max_mem_bytes=20011024384; layer split 16/18",
)


@pytest.mark.parametrize("row", [FLAGPERF, SAILOR], ids=["flagperf", "sailor"])
def test_what_the_scripts_say_gives_the_memory_that_was_read(row: Row):
    case = case_of(row)
    assert not isinstance(case, str)
    assert peak_bytes(case, row) / GIB == pytest.approx(row.memory_used_gib, rel=0.05)


def test_a_row_s_own_words_come_before_the_source_s_settings():
    said = memory_case(
        replace(FLAGPERF, notes="LBS=4 GAS=16 recompute=True mem GiB used/total 61/64", precision="bf16+fp8")
    )
    assert said is not None
    layout = said.layout
    assert (layout.micro_batch, layout.micro_batches, layout.seq_len) == (4, 16, 8192)
    assert (layout.recompute, layout.precision, said.total_gib) == ("selective", "fp8", 64)


def test_the_split_of_sailor_counts_embedding_and_head():
    case = memory_case(SAILOR)
    assert case is not None
    assert case.bounds == [(0, 15), (15, 32)]
    assert case.layout.precision == "fp32"
    assert case.layout.micro_batches == 32


def test_flash_attention_is_of_16_bits():
    case = memory_case(replace(FLAGPERF, precision="fp32"))
    assert case is not None
    assert not case.convention.flash
    assert USUAL[case.setting].convention.flash


def test_other_sources_go_by_their_framework():
    other = replace(FLAGPERF, source="NVIDIA NeMo", url_or_repo_path="NVIDIA/NeMo", seq=8192, micro_batch=1)
    assert memory_case(other) is None
    case = case_of(other)
    assert not isinstance(case, str)
    assert 30 < peak_bytes(case, other) / GIB < 70
