"""`isthmus status` and the terminal tables, on the made-up run."""

import json
from pathlib import Path

from rich.console import Console

from isthmus.journal.fold import fold
from isthmus.journal.reader import read
from isthmus.journal.view import RunView
from isthmus.ui import cli, tables
from isthmus.ui.cli import status as status_verb


def rendered(renderable: object) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def test_summary_of_a_finished_run(run_dir: Path, snapshot):
    assert rendered(tables.summary(fold(read(run_dir)))) == snapshot


def test_status_of_a_run_under_way(running_dir: Path, snapshot):
    view = fold(read(running_dir))
    assert rendered(tables.status(view, view.last_s + 1)) == snapshot


def test_status_before_anything_happened():
    assert "starting" in rendered(tables.status(RunView(), 1.0))


def test_json_is_complete_and_stable(run_dir: Path, capsys, snapshot):
    assert cli.main(["status", str(run_dir), "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_float=lambda digits: float(f"{float(digits):.6g}"))
    assert told == snapshot


def test_watching_ends_with_the_run(run_dir: Path, capsys, monkeypatch):
    monkeypatch.setattr(status_verb, "REFRESH_S", 0.0)
    assert cli.main(["status", str(run_dir), "--watch"]) == 0
    assert "two-sites" in capsys.readouterr().out
    assert cli.main(["status", str(run_dir), "--watch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "budget"


def test_no_run_there(tmp_path: Path, capsys):
    assert cli.main(["status", str(tmp_path / "nothing"), "--json"]) == 3
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["type"] == "NotFoundError"
    assert error["hint"]
