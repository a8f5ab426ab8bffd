"""`isthmus probe`, with a made-up profile in place of the measuring."""

from pathlib import Path

import msgspec
import pytest

from isthmus.agent.probe import Told, Wanted
from isthmus.errors import IsthmusError
from isthmus.planner.probed.profile import BlockTime, CollectiveRate, MatmulRate, Profile
from isthmus.ui import cli
from isthmus.ui.cli import probe as verb

PROFILE = Profile(
    chip="cpu", device="made up", threads=1, ranks=2, memory_bytes=2**33, memory_gb_s=12.5,
    matmuls=[MatmulRate(rows=256, inner=256, columns=512, precision="fp32", tflops=0.05)],
    collectives=[CollectiveRate(kind="all_reduce", ranks=2, latency_s=2e-4, gb_s=1.5)],
    blocks=[
        BlockTime(block="moe", model="m", tokens=512, seq_len=128, precision="fp32", forward_s=0.01,
                  backward_s=0.02, activation_bytes=3_000_000, spread=0.02),
        BlockTime(block="optimizer", model="m", tokens=0, seq_len=128, precision="fp32", forward_s=0.004,
                  backward_s=0.0),
    ],
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    wanted: list[Wanted] = []

    def run_probe(what: Wanted, told: Told) -> Profile:
        wanted.append(what)
        told(0.5, "blocks")
        return PROFILE

    monkeypatch.setattr(verb, "run_probe", run_probe)
    return wanted


def test_the_tables(asked: list[Wanted], capsys):
    assert cli.main(["probe", "--ranks", "2"]) == 0
    out = capsys.readouterr().out
    for text in ("12.5 GB/s", "50.0GFLOP/s", "all-reduce, 2 ranks", "moe, fp32", "3.00 MB", "optimizer"):
        assert text in out
    assert asked == [Wanted(ranks=2)]


def test_json_and_file(asked: list[Wanted], tmp_path: Path, capsys):
    run, out = tmp_path / "run.yaml", tmp_path / "profile.json"
    run.write_text("model: tiny\n")
    words = ["probe", "--run", str(run), "--random-rows", "--quick", "--json", "--out", str(out)]
    assert cli.main(words) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Profile) == PROFILE
    assert msgspec.json.decode(out.read_bytes(), type=Profile) == PROFILE
    assert asked[0].run is not None
    assert (asked[0].quick, asked[0].random_rows) == (True, True)


def test_a_failed_probe_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys):
    def run_probe(what: Wanted, told: Told) -> Profile:
        error = IsthmusError("a rank of the probe failed")
        error.exit_code = 4
        raise error

    monkeypatch.setattr(verb, "run_probe", run_probe)
    assert cli.main(["probe"]) == 4
    assert "a rank of the probe failed" in capsys.readouterr().err
