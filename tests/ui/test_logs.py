"""`isthmus logs`, on the made-up run."""

import json
import time
from pathlib import Path

import pytest

from isthmus.ui import cli


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert cli.main(["logs", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_filters_by_type(run_dir: Path, capsys, snapshot):
    told = lines(capsys, str(run_dir), "--type", "Fault", "--type", "ServerStarted", "--type", "RunFinished")
    assert "\n".join(told) == snapshot


def test_filters_by_site_and_time(run_dir: Path, capsys):
    told = [json.loads(line) for line in lines(capsys, str(run_dir), "--json", "--site", "jinan")]
    assert {event["type"] for event in told} >= {"StepDone", "LinkSample", "VersionPublished"}
    assert all("jinan" in json.dumps(event) for event in told)
    late = [json.loads(line) for line in lines(capsys, str(run_dir), "--json", "--since", "10 s")]
    assert max(event["wall_s"] for event in late) - min(event["wall_s"] for event in late) <= 10


def test_following_ends_with_the_run(run_dir: Path, capsys, monkeypatch):
    monkeypatch.setattr("isthmus.journal.reader.POLL_EVERY_S", 0.0)
    told = lines(capsys, str(run_dir), "--follow", "--type", "RunFinished")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--type", "Nonsense"], 2, "known are RunStarted"),
        (["--since", "soon"], 2, "5 min"),
        (["--site", "nowhere"], 3, "known are jinan, qingdao"),
    ],
)
def test_bad_filters_name_the_remedy(run_dir: Path, capsys, arguments: list[str], code: int, said: str):
    assert cli.main(["logs", str(run_dir), *arguments]) == code
    assert said in capsys.readouterr().err
