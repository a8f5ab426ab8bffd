"""The check of a node: what is planted is found and named."""

import os
from pathlib import Path

import msgspec
import pytest
import torch

from isthmus.faults.burn_report import BurnReport
from isthmus.train import burn_in
from isthmus.train.burn_in import Findings, Unit

UNITS = [Unit("chip 0", "cpu"), Unit("chip 1", "cpu"), Unit("chip 2", "cpu")]


def test_a_sound_machine_passes_within_its_time(tmp_path: Path, capsys):
    figures = tmp_path / "figures-a.json"
    assert burn_in.main(["--disk", str(tmp_path), "--figures", str(figures), "--count", "1"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=BurnReport)
    assert report.ok
    assert {"matmul_gflops", "copy_gbps", "disk_block_s", "collective_s", "walked_mib"} <= set(report.figures)


def test_a_chip_that_computes_wrong_now_and_then_is_named():
    calls = iter(range(10**9))

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product = a @ b
        if next(calls) == 5:  # of the second chip: each makes one product and then at least three
            product.view(torch.int32)[7, 7] ^= 1
        return product

    found = Findings()
    burn_in.check_units(UNITS, 0.0, found, multiply)
    assert [problem.part for problem in found.problems] == ["chip 1"]
    assert "1 places" in found.problems[0].text


def test_a_chip_that_always_computes_a_little_wrong_is_told_from_the_others():
    calls = iter(range(10**9))

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product = a @ b
        if 4 <= next(calls) < 8:
            product.view(torch.int32)[0, 0] ^= 1
        return product

    found = Findings()
    burn_in.check_units(UNITS, 0.0, found, multiply)
    assert [(problem.part, problem.text) for problem in found.problems] == [
        ("chip 1", "its product differs from that of the others")
    ]


def test_all_wrong_alike_is_found_too():
    found = Findings()
    burn_in.check_units(UNITS, 0.0, found, lambda a, b: (a @ b) * 1.5)
    assert [problem.part for problem in found.problems] == ["chip 0", "chip 1", "chip 2"]


def test_a_disk_that_refuses_is_named(tmp_path: Path):
    found = Findings()
    burn_in.check_disk(tmp_path / "missing", found)
    assert found.problems[0].part == "disk"
    assert "ENOENT" in found.problems[0].text


@pytest.mark.parametrize(("share", "problems", "warnings"), [(0.2, 1, 0), (0.5, 0, 1), (0.9, 0, 0)])
def test_rates_are_compared_with_earlier_ones_and_with_other_nodes(
    tmp_path: Path, monkeypatch, share, problems, warnings
):
    monkeypatch.setattr(burn_in, "_load", lambda: 0.5)
    (tmp_path / "figures-b.json").write_text('{"matmul_gflops": 100.0}')
    found = Findings(figures={"matmul_gflops": 100.0 * share})
    burn_in.compare(found, tmp_path / "figures-a.json")
    assert (len(found.problems), len(found.warnings)) == (problems, warnings)


def test_a_busy_machine_is_not_judged_by_its_rates(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(burn_in, "_load", lambda: 3.0)
    (tmp_path / "figures-b.json").write_text('{"matmul_gflops": 100.0}')
    found = Findings(figures={"matmul_gflops": 1.0})
    burn_in.compare(found, tmp_path / "figures-a.json")
    assert not found.problems
    assert not (tmp_path / "figures-a.json").exists()


def test_every_core_is_a_unit_of_its_own():
    units = burn_in.find_units("cpu", 1)
    assert {unit.core for unit in units} == os.sched_getaffinity(0)
