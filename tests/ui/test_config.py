import json

import pytest

from isthmus.ui.cli import main


@pytest.fixture
def files(tmp_path):
    run, fleet = tmp_path / "run.yaml", tmp_path / "fleet.yaml"
    run.write_text("model: tiny-moe\ntrain: {batch_size: 8}\n")
    fleet.write_text("sites:\n  jinan: {chips: {cpu: 2}}\n  shanghai:\n")
    return ["--run", str(run), "--fleet", str(fleet)]


def test_show_prints_what_differs(files, capsys):
    assert main(["config", "show", *files, "--set", "train.lr=2e-4", "--set", "sites.jinan.chips.cpu=4"]) == 0
    shown = capsys.readouterr().out
    assert "lr: 0.0002" in shown
    assert "cpu: 4" in shown
    assert "site_timeout" not in shown


def test_show_resolved_prints_every_field(files, capsys):
    assert main(["config", "show", *files, "--resolved", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run"]["outer"]["site_timeout"] == "30 s"
    assert shown["run"]["model"]["num_experts"] == 8
    assert set(shown["fleet"]["sites"]) == {"jinan", "shanghai"}


def test_check_prints_the_plan(files, capsys):
    assert main(["config", "check", *files]) == 0
    assert "shanghai" in capsys.readouterr().out
    assert main(["config", "check", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 8


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("train.batch_size=3", 6, "multiple of 2"),
        ("train.lrr=3", 2, "'lr'"),
        ("outer.quorum=5", 6, "at most 2"),
    ],
)
def test_check_fails_with_a_remedy(files, capsys, override, code, message):
    assert main(["config", "check", *files, "--set", override]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", ["run", "fleet"])
def test_schema_is_json(file, capsys):
    assert main(["config", "schema", file]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == f"{file}.yaml"
