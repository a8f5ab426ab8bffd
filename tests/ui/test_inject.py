"""`isthmus inject` against an agent that is a thread of the test."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from isthmus.faults.inject.kinds import KINDS
from isthmus.faults.inject.messages import InjectReply, InjectRequest
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, NodeSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.ui import cli
from isthmus.wire.line import Line, LineClosedError
from isthmus.wire.orders import take_orders

FLEET = FleetSpec(sites={name: SiteSpec(nodes=[NodeSpec(chips={"cpu": 2})]) for name in ("jinan", "qingdao")})


class AgentLine(Line[InjectRequest]):
    kind = InjectRequest
    what = "the command"


class Agent:
    """Takes everything but what is meant for rank 1 at step 13."""

    def __init__(self, run: RunDir, site: str, sockets: Path):
        self.asked: list[InjectRequest] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(sockets / site))
        self._server.listen()
        run.agent_address(site).parent.mkdir(parents=True, exist_ok=True)
        run.agent_address(site).write_text(str(sockets / site))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with closing(AgentLine(connection)) as line:
                try:
                    while True:
                        for request in line.receive(None):
                            self.asked.append(request)
                            line.send(InjectReply(ok=request.at_step != 13, text="as you wish"))
                except LineClosedError:
                    continue

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5.0)


def planned(source: Path, path: Path) -> RunDir:
    """A copy of a made-up run, with a plan of two sites of two ranks."""
    shutil.copytree(source, path)
    run = RunDir(path)
    run.plan.write_bytes(msgspec.json.encode(make_plan(FLEET, RunSpec())))
    return run


@pytest.fixture
def run(running_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that is going on, the only one in ./runs."""
    monkeypatch.chdir(tmp_path)
    return planned(running_dir, tmp_path / "runs" / "two-sites")


@pytest.fixture
def agents(run: RunDir, tmp_path: Path) -> Iterator[dict[str, Agent]]:
    started = {site: Agent(run, site, tmp_path) for site in ("jinan", "qingdao")}
    yield started
    for agent in started.values():
        agent.close()


def test_one_fault_of_the_only_run_going_on(agents: dict[str, Agent], capsys):
    words = ["inject", "slow", "--site", "qingdao", "--rank", "1", "--at-step", "20"]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out == "accepted  slow 1.2, rank 1 of qingdao, at step 20: as you wish\n"
    assert err == "warning: 1 fault on purpose, in runs/two-sites\n"
    assert agents["qingdao"].asked == [InjectRequest(rank=1, kind="slow", at_step=20, value=1.2)]
    assert agents["jinan"].asked == []


def test_a_refusal_of_the_agent_fails(agents: dict[str, Agent], capsys):
    words = ["inject", "kill", "--site", "jinan", "--rank", "1", "--at-step", "13"]
    assert cli.main(words) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("refused   kill, rank 1 of jinan")
    assert "1 of 1 fault refused" in captured.err


def test_a_schedule_goes_to_the_sites_it_names(agents: dict[str, Agent], tmp_path: Path, capsys):
    (tmp_path / "faults.yaml").write_text(
        "faults:\n  - {kind: kill, rank: 1, at_step: 13}\n  - {kind: nan, site: qingdao}\n"
        "random: [{count: 8, within_s: 60}]\n"
    )
    words = ["inject", "--site", "jinan", "--schedule", "faults.yaml", "--json"]
    assert cli.main(words) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "runs/two-sites"
    assert [fault["ok"] for fault in told["faults"]].count(False) == 1
    assert len(agents["jinan"].asked) == 9
    assert [request.kind for request in agents["qingdao"].asked] == ["nan"]
    assert {request.rank for request in agents["jinan"].asked} <= {0, 1}


def test_what_cannot_be_done_of_a_schedule_is_told_and_the_rest_goes_on(
    agents: dict[str, Agent], tmp_path: Path, capsys
):
    (tmp_path / "faults.yaml").write_text(
        "faults: [{kind: corrupt}, {kind: kill}, {kind: link_cut, at_s: 3}]"
    )
    assert cli.main(["inject", "--site", "jinan", "--schedule", "faults.yaml", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["faults"]
    assert {fault["kind"]: fault["ok"] for fault in told} == {
        "corrupt": False, "kill": True, "link_cut": True
    }  # fmt: skip
    assert [request.kind for request in agents["jinan"].asked] == ["kill", "link_cut"]


def test_a_schedule_for_ranks_that_are_not_there(agents: dict[str, Agent], tmp_path: Path, capsys):
    (tmp_path / "faults.yaml").write_text("faults:\n  - {kind: kill, rank: 2, site: jinan}\n")
    assert cli.main(["inject", "--schedule", "faults.yaml"]) == 2
    assert "faults.yaml:2: faults.0: there is no rank 2" in capsys.readouterr().err
    assert agents["jinan"].asked == []


def test_the_newest_checkpoint_is_damaged_without_an_agent(run: RunDir, capsys):
    folder = run.site("jinan") / "checkpoints"
    words = ["inject", "truncate", "--run", str(run.path), "--site", "jinan"]
    assert cli.main(words) == 3
    assert "no checkpoint yet" in capsys.readouterr().err
    folder.mkdir(parents=True)
    path = folder / "step-000000003-aa.safetensors"
    path.write_bytes(bytes(80))
    assert cli.main(words) == 0
    assert path.stat().st_size == 40
    assert "cut step-000000003-aa.safetensors from 80 to 40 bytes" in capsys.readouterr().out


def test_a_link_is_cut_by_its_relay(run: RunDir, capsys):
    words = ["inject", "link_cut", "--run", str(run.path), "--site", "jinan", "--value", "4"]
    assert cli.main(words) == 3
    assert "not emulated" in capsys.readouterr().err
    with take_orders(run.relay_orders("jinan", 0)) as orders:
        assert cli.main(words) == 0
        assert orders.readline() == "blackhole 4\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "what is to happen"),
        (["kill", "--schedule", "x.yaml"], 2, "what is to happen"),
        (["kil"], 2, "did you mean 'kill'?"),
        (["kill", "--value", "3"], 2, "takes no value"),
        (["kill"], 2, "which site"),
        (["kill", "--site", "jinam"], 3, "did you mean 'jinan'?"),
        (["kill", "--site", "jinan", "--rank", "2"], 2, "from 0 to 1"),
        (["link_cut", "--site", "jinan", "--at-step", "2"], 2, "by steps"),
        (["kill", "--site", "jinan"], 3, "no agent here"),
        (["--schedule", "none.yaml"], 3, "none.yaml"),
    ],
)
def test_errors(run: RunDir, capsys, words: list[str], code: int, text: str):
    assert cli.main(["inject", "--run", str(run.path), *words]) == code
    assert text in capsys.readouterr().err


def test_a_finished_run_is_refused(run_dir: Path, tmp_path: Path, capsys):
    run = planned(run_dir, tmp_path / "done")
    assert cli.main(["inject", "kill", "--run", str(run.path), "--site", "jinan"]) == 2
    assert "the run has finished (budget)" in capsys.readouterr().err


def test_the_run_must_be_plain(run: RunDir, running_dir: Path, run_dir: Path, tmp_path: Path, capsys):
    """Without --run: one whose agent answers or whose journal is fresh. Old and finished ones are passed."""
    planned(run_dir, tmp_path / "runs" / "done")
    assert cli.main(["inject", "kill", "--site", "jinan"]) == 3
    assert "no run is going on here" in capsys.readouterr().err
    first = Agent(run, "jinan", tmp_path)
    assert cli.main(["inject", "kill", "--site", "jinan"]) == 0
    other = planned(running_dir, tmp_path / "runs" / "other")
    (tmp_path / "b").mkdir()
    second = Agent(other, "jinan", tmp_path / "b")
    capsys.readouterr()
    assert cli.main(["inject", "kill", "--site", "jinan"]) == 3
    assert "runs/other, runs/two-sites" in capsys.readouterr().err
    first.close()
    second.close()


def test_the_list(capsys):
    assert cli.main(["inject", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in KINDS)
    assert cli.main(["inject", "--list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["kinds"]
    assert [kind["kind"] for kind in told] == list(KINDS)
