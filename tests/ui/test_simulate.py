"""`isthmus simulate`."""

import json
from xml.etree import ElementTree

import msgspec
import pytest

from isthmus.planner.make import make_plan
from isthmus.spec.load import load_fleet, load_run
from isthmus.ui.cli import main


@pytest.fixture
def files(tmp_path):
    run, fleet = tmp_path / "run.yaml", tmp_path / "fleet.yaml"
    run.write_text("model: small\ntrain: {batch_size: 400}\n")
    fleet.write_text(
        "sites:\n"
        "  jinan: {nodes: [{count: 100, chips: {cpu: 2}, mtbf: 30 d}]}\n"
        "  weihai: {nodes: [{count: 50, chips: {cpu: 2}}]}\n"
    )
    return ["--run", str(run), "--fleet", str(fleet)]


def test_the_table(files, capsys):
    assert main(["simulate", *files, "--step-s", "2", "--spares", "jinan=5", "--repeat", "3"]) == 0
    out = capsys.readouterr().out
    assert "mode elastic" in out
    assert "of 3 replays" in out
    assert "no spare" in out
    assert "Llama 3" in out
    assert "loses its window of 50 steps" in out
    (jinan,) = (line.split() for line in out.splitlines() if line.startswith("jinan"))
    assert jinan[1:5] == ["100", "5", "30", "d"]


def test_json(files, capsys):
    words = ["simulate", *files, "--step-s", "2", "--step-s", "weihai=3", "--days", "10", "--json"]
    words += ["--sweep", "spares", "--assume", "repair=6h", "--assume", "slow_per_day=1"]
    assert main(words) == 0
    said = capsys.readouterr().out
    told = json.loads(said)
    assert [site["step_s"] for site in told["job"]["sites"]] == [2, 3]
    assert told["job"]["sites"][0]["repair_s"] == 6 * 3600
    assert told["horizon"] == {"days": 10.0, "seed": 0, "repeat": 1}
    (outcome,) = told["outcomes"]
    assert outcome["goodput"] == pytest.approx(outcome["spent_s"]["useful"] / 864_000)
    assert sum(outcome["spent_s"].values()) == pytest.approx(864_000)
    assert told["quantity"] == "spares"
    assert [point["value"] for point in told["points"]][:4] == [0, 1, 2, 3]
    assert told["advice"]["goodput_attainable"] >= told["points"][0]["goodput"]
    assert main(words) == 0
    assert capsys.readouterr().out == said, "the same words, the same answer"
    assert main([*words, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["failures"] != outcome["failures"]


@pytest.mark.parametrize("sweep", [[], *(["--sweep", each] for each in ("mtbf", "checkpoint", "spares"))])
def test_a_picture(files, tmp_path, capsys, sweep):
    page = tmp_path / "page.svg"
    words = ["simulate", *files, "--step-s", "2", "--days", "3", "--repeat", "2", "--out", str(page)]
    assert main([*words, *sweep]) == 0
    picture = ElementTree.fromstring(page.read_text())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    texts = " ".join(each.text or "" for each in picture.iter("{http://www.w3.org/2000/svg}text"))
    assert ("Goodput against" if sweep else "Outages in 3 days") in texts
    assert ("jinan" in texts) == (not sweep)


def test_a_plan_that_is_given(files, tmp_path, capsys):
    run, fleet = files[1], files[3]
    plan = tmp_path / "plan.json"
    plan.write_bytes(msgspec.json.encode(make_plan(load_fleet(fleet), load_run(run))))
    assert main(["simulate", *files, "--plan", str(plan), "--step-s", "2", "--json"]) == 0
    given = capsys.readouterr().out
    assert main(["simulate", *files, "--step-s", "2", "--json"]) == 0
    assert given == capsys.readouterr().out


def test_a_plan_of_another_run_is_refused(files, tmp_path, capsys):
    run, fleet = files[1], files[3]
    plan = tmp_path / "plan.json"
    plan.write_bytes(msgspec.json.encode(make_plan(load_fleet(fleet), load_run(run))))
    words = ["simulate", *files, "--step-s", "2", "--plan", str(plan)]
    assert main([*words, "--set", "model.num_layers=7"]) == 2
    assert "parameters; the run has" in capsys.readouterr().err


def test_where_nothing_fails_no_interval_is_best(capsys):
    assert main(["simulate", "--step-s", "1", "--assume", "mtbf=9000d", "--days", "1"]) == 0
    out = capsys.readouterr().out
    assert "is best here" not in out
    assert "by Daly's formula (no node failed here: replay more days to try it)" in out


def test_one_site_gets_an_interval(capsys):
    words = ["simulate", "--step-s", "1", "--assume", "mtbf=5h", "--assume", "copy=1 Mbps", "--spares", "4"]
    assert main([*words, "--sweep", "checkpoint"]) == 0
    out = capsys.readouterr().out
    assert "by Daly's formula; now 1 min 00 s" in out
    assert "mode none" in out
    assert "checkpoint interval                      goodput" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--step-s", "2", "--days", "0"], 2, "more than 0"),
        (["--step-s", "2", "--days", "-3"], 2, "more than 0"),
        (["--step-s", "2", "--repeat", "0"], 2, "at least 1"),
        (["--step-s", "2", "--seed", "-1"], 2, "0 or more"),
        (["--step-s", "2", "--assume", "write=0"], 2, "above 0"),
        (["--step-s", "2", "--assume", "copy=0 Gbps"], 2, "above 0"),
        (["--step-s", "2", "--spares", "-1"], 2, "negative"),
        (["--step-s", "2", "--spares", "jinan=-1"], 2, "negative"),
        (["--step-s", "2", "--spares", "beijing=1"], 2, "the sites are jinan, weihai"),
        (["--step-s", "2", "--spares", "some"], 2, "not a number"),
        (["--step-s", "0"], 2, "above 0"),
        (["--step-s", "nan"], 2, "finite"),
        (["--step-s", "inf"], 2, "finite"),
        (["--step-s", "jinan=2"], 2, "'weihai'"),
        ([], 2, "--step-s 2.5"),
        (["--step-s", "2", "--assume", "mtbf"], 2, "name=value"),
        (["--step-s", "2", "--assume", "mtfb=1h"], 2, "did you mean 'mtbf'"),
        (["--step-s", "2", "--assume", "mtbf=1 fortnight"], 2, "unknown unit"),
        (["--step-s", "2", "--assume", "slow_factor=0.5"], 2, "1 or more"),
        (["--step-s", "2", "--assume", "mtbf=1ms"], 2, "fewer days"),
        (["--step-s", "2", "--plan", "missing.json"], 3, "no such file"),
        (["--step-s", "2", "--sweep", "luck"], 2, ""),
        (["--step-s", "2", "--out", "missing/page.svg"], 1, "another place"),
        (["--step-s", "2", "--set", "train.batch_size=3"], 6, "multiple"),
    ],
)
def test_bad_input(files, capsys, words, code, message):
    assert main(["simulate", *files, *words]) == code
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_plan(files, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text('{"sites": 3}')
    assert main(["simulate", *files, "--step-s", "2", "--plan", str(plan)]) == 2
    assert "this is no plan" in capsys.readouterr().err


def test_a_site_that_may_shrink_stands_less(files, capsys):
    words = ["simulate", *files, "--step-s", "2", "--json"]
    told = []
    for more in ([], ["--shrink"]):
        assert main([*words, *more]) == 0
        told.append(json.loads(capsys.readouterr().out)["outcomes"][0])
    assert told[1]["goodput"] > told[0]["goodput"]
    assert told[1]["spent_s"]["no spare"] < told[0]["spent_s"]["no spare"]
    assert told[1]["spent_s"]["fewer nodes"] > told[0]["spent_s"]["fewer nodes"] == 0
