"""`isthmus plan score`."""

import json
from pathlib import Path

import pytest

from isthmus.ui import cli

ROWS = """\
id,source,model,chip,n_chips,tp,pp,dp,micro_batch,global_batch,seq,precision,recompute,tokens_per_s_per_chip
ours,Own system,Llama3-8B,h100,8,1,1,8,1,64,8192,bf16,none,5000
next,Own system,Llama3-70B,h100,64,4,4,4,1,256,8192,bf16,none,
odd,Own system,Nobody-1,h100,8,1,1,8,1,64,8192,bf16,none,
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def test_json_has_a_row_for_each_row(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "score", str(rows), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in document["rows"]] == ["ours", "next", "odd"]
    keys = {
        "id",
        "step_time_s",
        "tokens_per_s_per_chip",
        "tflops_per_chip",
        "memory_gb",
        "interval",
        "provenance",
    }
    assert keys <= set(document["rows"][0])
    assert document["rows"][2]["step_time_s"] is None
    assert document["rows"][2]["reason"]


def test_a_table_for_people(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "score", str(rows), "--calibrate", str(rows)]) == 0
    said = capsys.readouterr().out
    assert "next" in said
    assert "tokens/s/chip" in said
    assert "no dimensions" in said


def test_bad_files_have_their_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "score", str(tmp_path / "none.csv")]) == 3
    (tmp_path / "bad.csv").write_text("model,chip\nx,y\n")
    assert cli.main(["plan", "score", str(tmp_path / "bad.csv")]) == 2
    assert "lacks id" in capsys.readouterr().err
