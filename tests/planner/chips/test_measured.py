"""What was measured takes the datasheet's place; the rest stays."""

import pytest

from isthmus.planner.chips.find import find_chip
from isthmus.planner.chips.measured import with_profile
from isthmus.planner.probed.profile import CollectiveRate, MatmulRate, Profile


def _matmul(size: int, precision: str, tflops: float) -> MatmulRate:
    return MatmulRate(rows=size, inner=size, columns=size, precision=precision, tflops=tflops)


def _rate(kind: str, ranks: int, gb_s: float) -> CollectiveRate:
    return CollectiveRate(kind=kind, ranks=ranks, latency_s=1e-4, gb_s=gb_s)


def _profile(*rates: CollectiveRate) -> Profile:
    matmuls = [_matmul(64, "fp32", 0.01), _matmul(1024, "fp32", 0.08), _matmul(1024, "int4", 9.0)]
    return Profile(
        chip="cpu",
        device="two cores",
        memory_bytes=2**33,
        memory_gb_s=12.5,
        matmuls=matmuls,
        collectives=list(rates),
    )


def test_measured_values_go_before_the_datasheet():
    chip = with_profile(find_chip("cpu"), _profile())
    assert (chip.fp32_tflops, chip.memory_gib, chip.memory_gb_s) == (0.08, 8.0, 12.5)
    assert {chip.origins[field] for field in ("fp32_tflops", "memory_gib", "memory_gb_s")} == {"measured"}
    assert chip.source == "measured on two cores"


def test_what_was_not_measured_stays():
    before = find_chip("cpu")
    chip = with_profile(before, _profile())
    assert (chip.link_gb_s, chip.nic_gb_s, chip.bf16_tflops) == (before.link_gb_s, before.nic_gb_s, 0.0)
    assert chip.origins["link_gb_s"] == "believed"


@pytest.mark.parametrize(
    ("rates", "link_gb_s"),
    [
        ([_rate("all_reduce", 4, 1.0)], 1.5),  # 2 (n - 1) / n
        ([_rate("all_gather", 4, 1.0)], 0.75),
        ([_rate("send", 2, 1.0)], 1.0),
        ([_rate("send", 2, 9.0), _rate("all_reduce", 2, 2.0), _rate("all_reduce", 4, 1.0)], 1.5),
        ([_rate("all_reduce", 1, 50.0), _rate("barrier", 4, 50.0)], 1.0),  # neither says anything
    ],
)
def test_the_link_is_what_one_rank_sends(rates: list[CollectiveRate], link_gb_s: float):
    assert with_profile(find_chip("cpu"), _profile(*rates)).link_gb_s == pytest.approx(link_gb_s)
