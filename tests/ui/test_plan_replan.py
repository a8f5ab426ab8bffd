"""`isthmus plan replan`."""

import json

import msgspec
import pytest

from isthmus.planner.plan import Plan
from isthmus.ui.cli import main


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    place = tmp_path_factory.mktemp("replan")
    fleet, run, plan = (str(place / name) for name in ("fleet.yaml", "run.yaml", "plan.json"))
    (place / "fleet.yaml").write_text("sites:\n  west: {chips: {a800: 8}, nodes: 8}\n")
    (place / "run.yaml").write_text(
        "model: skywork-13b\n"
        "data: {seq_len: 4096}\n"
        "train: {batch_size: 256, tokens: 1T, micro_batch_size: 1}\n"
        "parallel: {tp: 1, cp: 1, pp: 4, virtual: 1, sharding: optimizer, recompute: none}\n"
    )
    assert main(["plan", "--fleet", fleet, "--run", run, "--out", plan]) == 0
    return ["plan", "replan", plan, "--fleet", fleet, "--run", run]


def test_the_table(words, capsys):
    assert main([*words, "--event", "slow west speed=0.5"]) == 0
    out = capsys.readouterr().out
    assert "after slow site=west speed=0.5: tokens in the next 24 h" in out
    assert "do nothing" in out
    (chosen,) = (line for line in out.splitlines() if "CHOSEN" in line)
    assert "cut the layers again" in chosen
    assert "- cannot use spares" in out
    assert "cut the layers again, by site" in out


def test_json_and_the_plan(words, tmp_path, capsys):
    out = tmp_path / "new.json"
    event = ["--event", "lost west", "--event", "link west factor=0.5"]
    assert main([*words, *event, "--horizon", "6h", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["horizon_s"] == 6 * 3600
    assert [event["type"] for event in told["events"]] == ["lost", "link"]
    assert [option["name"] for option in told["options"] if option["chosen"]] == ["regroup replicas"]
    assert msgspec.convert(told["plan"], Plan) == msgspec.json.decode(out.read_bytes(), type=Plan)


def test_what_is_assumed_counts(words, capsys):
    assert main([*words, "--event", "lost west", "--assume", "repair=30s", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["options"][0]["chosen"]
    assert 30 + 120 < told["options"][0]["restart_s"] < 30 + 180  # then new processes, and the checkpoint


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--event", "slow wst speed=0.5"], "did you mean 'west'?"),
        (["--event", "slow west speed=0.5", "--horizon", "soon"], "--horizon"),
        (["--event", "slow west speed=0.5", "--horizon", "0s"], "--horizon"),
        (["--event", "lost-site west"], "no site is left"),
    ],
)
def test_bad_input(words, capsys, more, said):
    assert main([*words, *more]) in (2, 6)
    assert said in capsys.readouterr().err
