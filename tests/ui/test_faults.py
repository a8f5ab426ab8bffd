"""`isthmus faults`."""

import json
from pathlib import Path

import pytest

from isthmus.ui import cli

LINE = "[rank3]: RuntimeError: DataLoader worker (pid 1817) is killed by signal: Killed. "

Out = pytest.CaptureFixture[str]


def test_list_by_class_and_chip(capsys: Out):
    assert cli.main(["faults", "list", "--class", "nan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["class"] for entry in found} == {"nan"}
    assert cli.main(["faults", "list", "--chip", "nvidia", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all({"nvidia", "any"} & set(entry["chips"]) for entry in found)
    assert cli.main(["faults", "list"]) == 0
    assert "NUM-SPIKE" in capsys.readouterr().out


def test_list_of_no_such_class_or_chip(capsys: Out):
    assert cli.main(["faults", "list", "--class", "nann"]) == 2
    assert "did you mean 'nan'?" in capsys.readouterr().err
    assert cli.main(["faults", "list", "--chip", "nvdia"]) == 2
    assert "did you mean 'nvidia'?" in capsys.readouterr().err


def test_show(capsys: Out):
    assert cli.main(["faults", "show", "num-spike"]) == 0
    said = capsys.readouterr().out
    assert "rollback" in said
    assert "verify" in said
    assert cli.main(["faults", "show", "NUM-SPIKE", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "NUM-SPIKE"
    assert cli.main(["faults", "show", "NUM-SPIKES"]) == 3
    assert "NUM-SPIKE" in capsys.readouterr().err


def test_search_by_a_line_and_by_words(capsys: Out):
    assert cli.main(["faults", "search", LINE]) == 0
    assert "DATA-WORKER-KILLED" in capsys.readouterr().out
    assert cli.main(["faults", "search", "loss", "scale", "minimum", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "SCALE-COLLAPSE" in [match["entry"]["id"] for match in found]
    assert cli.main(["faults", "search", "zzzyx"]) == 3
    assert cli.main(["faults", "search"]) == 2


def test_learn_then_load(tmp_path: Path, capsys: Out):
    log, mine = tmp_path / "rank1.log", tmp_path / "mine"
    log.write_text(f"{LINE}\nFluxError: coupling 17 lost\n")
    mine.mkdir()
    assert cli.main(["faults", "learn", str(log)]) == 0
    assert "FluxError" in capsys.readouterr().out
    assert cli.main(["faults", "learn", str(log), "--rank", "1", "--out", str(mine / "new.yaml")]) == 0
    assert cli.main(["faults", "list", "--catalogue", str(mine)]) == 2
    assert "'cause' is empty" in capsys.readouterr().err
    draft = (mine / "new.yaml").read_text().replace("''", "filled in").replace("[]", "[ours]")
    (mine / "new.yaml").write_text(draft)
    assert cli.main(["faults", "search", "FluxError: coupling 4 lost", "--catalogue", str(mine)]) == 0
    assert "NEW-FLUXERROR-COUPLING-LOST" in capsys.readouterr().out
    log.write_text(LINE)
    assert cli.main(["faults", "learn", str(log)]) == 3
    assert cli.main(["faults", "learn", str(tmp_path / "none.log")]) == 3
