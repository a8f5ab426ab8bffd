import json
from pathlib import Path

import pytest

from isthmus.spec.run import DataSpec
from isthmus.ui.cli import main


@pytest.fixture
def run_file(data_spec: DataSpec, tmp_path: Path) -> list[str]:
    path = tmp_path / "run.yaml"
    sources = "\n".join(f"    - {{path: '{s.path}', weight: {s.weight}}}" for s in data_spec.sources)
    path.write_text(
        f"model:\n  vocab_size: 400\ndata:\n  seq_len: 32\n  cache: {tmp_path}/cache\n  sources:\n{sources}\n"
    )
    return [str(path)]


def test_prepare_then_show(run_file: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["data", "show", *run_file]) == 3
    assert "isthmus data prepare" in capsys.readouterr().err
    assert main(["data", "prepare", *run_file, "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert prepared["vocab_size"] == 400
    assert [source["documents"] for source in prepared["sources"]] == [120, 60]
    assert main(["data", "show", *run_file, "--json", "--verify"]) == 0
    assert json.loads(capsys.readouterr().out) == prepared
    assert main(["data", "show", *run_file]) == 0
    assert prepared["fingerprint"] in capsys.readouterr().out


def test_show_a_sample(run_file: list[str], capsys: pytest.CaptureFixture[str]):
    main(["data", "prepare", *run_file])
    capsys.readouterr()
    assert main(["data", "show", *run_file, "--sample", "7", "--json"]) == 0
    sample = json.loads(capsys.readouterr().out)
    assert len(sample["tokens"]) == 33
    assert main(["data", "show", *run_file, "--sample", "7"]) == 0
    assert capsys.readouterr().out.strip() == sample["text"].strip()


def test_damage_is_reported(run_file: list[str], capsys: pytest.CaptureFixture[str]):
    main(["data", "prepare", *run_file, "--json"])
    path = Path(json.loads(capsys.readouterr().out)["sources"][0]["files"][0])
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    assert main(["data", "show", *run_file]) == 1
    shown = capsys.readouterr().err
    assert str(path) in shown
    assert "delete the file" in shown
