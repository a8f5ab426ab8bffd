"""`isthmus diagnose`: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from isthmus.ui.cli import main

LOG = """\
[rank0]: RuntimeError: [pair.cc:553] Connection closed by peer [10.0.0.4]:58766.
[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
"""
KEYS = {
    "class", "rank", "place", "entry", "action", "confidence", "cause", "verify", "evidence", "victims",
    "culprits", "runner_up",
}  # fmt: skip


def test_the_verdict_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train.log").write_text(LOG)
    assert main(["diagnose", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("oom_device on rank 3")
    assert "train.log:2" in said
    assert "victims" in said


def test_json_has_all_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train.log").write_text(LOG)
    assert main(["diagnose", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == KEYS
    assert (said["class"], said["rank"], said["culprits"], said["victims"]) == ("oom_device", 3, [3], [0])


def test_nothing_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train.log").write_text("all is well\n")
    assert main(["diagnose", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["class"], said["action"]) == (None, "alert_human")
    assert main(["diagnose", str(tmp_path)]) == 0
    assert "No known fault" in capsys.readouterr().out


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["diagnose", str(tmp_path / "nowhere")]) == 3
    (tmp_path / "weights.bin").write_bytes(bytes(9))
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "hint" in capsys.readouterr().err


def test_several_paths_are_one_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for rank, line in enumerate(LOG.splitlines()):
        (tmp_path / f"{rank}.log").write_text(line + "\n")
    assert main(["diagnose", str(tmp_path / "0.log"), str(tmp_path / "1.log"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 3
