"""`isthmus check link` and `isthmus certs` against a real listener."""

import json
from dataclasses import replace

import pytest

from isthmus.clock import RealClock
from isthmus.errors import UnreachableError
from isthmus.spec.run import RunSpec
from isthmus.ui.cli import main
from isthmus.wire import measure
from isthmus.wire.probe import run_facts
from isthmus.wire.shaper import Shaper
from isthmus.wire.transport import ClientTls, Plain, format_address

from .conftest import QUICK


@pytest.fixture(autouse=True)
def _short_bursts(monkeypatch):
    monkeypatch.setattr(measure, "BURST_S", 0.1)


def report_of(**fields):
    base = {
        "server": "s", "rtt_s": 0.03, "jitter_s": 0.001, "up_bps": 1e8, "down_bps": 1e8, "mtu": 1500,
        "mss": 1448, "loss_up": 0.0, "loss_down": 0.0, "clock_offset_s": 0.0, "congestion": "bbr",
        "streams": 2, "facts": {},
    }  # fmt: skip
    return measure.LinkReport(**base | fields)


def test_a_shaped_link_is_measured(wire):
    listener, _ = wire.listen(Plain())
    listener.facts = {"code": "1"}
    shaper = wire.keep(Shaper(listener.address, rate_bps=80e6, delay_s=0.01))
    stages = []
    report = measure.measure(shaper.address, Plain("a"), on_stage=stages.append, burst_s=0.4)
    assert stages == ["delay", "up", "down", "facts"]
    assert report.rtt_s >= 0.02
    assert 0 < report.up_bps < 100e6
    assert 0 < report.down_bps < 100e6
    assert abs(report.clock_offset_s) < 1
    assert report.facts == {"code": "1"}
    assert measure.find_problems(report, {"code": "1", "model": "x"}) == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"clock_offset_s": -7200.0}, "2 h behind"),
        ({"loss_up": 0.05}, "5.0% of the segments up"),
        ({"mtu": 576}, "576 bytes per packet"),
        ({"down_bps": 0.0}, "nothing arrived down"),
        ({"facts": {"model": "2"}}, "'model' differs: 1 here, 2 at the server"),
        ({"facts": {"code": "0.9"}}, "same version of isthmus"),
    ],
)
def test_problems_are_named_with_a_remedy(fields, word):
    (problem,) = measure.find_problems(report_of(**fields), {"model": "1", "code": "0.1"})
    assert word in problem


def test_facts_follow_model_and_data_but_not_the_cache_folder():
    run = RunSpec()
    elsewhere = replace_field(run, data=replace_field(run.data, cache="/elsewhere"))
    other = replace_field(run, data=replace_field(run.data, seed=7))
    assert run_facts(elsewhere) == run_facts(run)
    assert {name for name, value in run_facts(other).items() if run_facts(run)[name] != value} == {"data"}


def replace_field(struct, **fields):
    import msgspec

    return msgspec.structs.replace(struct, **fields)


def test_check_link_prints_a_table_and_json(wire, fleet, capsys):
    listener, _ = wire.listen()
    arguments = ["check", "link", format_address(listener.address), "--certs", str(fleet), "--site", "a"]
    assert main(arguments) == 0
    assert "bandwidth up" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["problems"] == []
    assert shown["up_bps"] > 0


class Ahead(RealClock):
    def wall_s(self):
        return super().wall_s() + 100


def test_check_link_ends_with_5_when_clock_and_model_differ(wire, fleet, tmp_path, capsys):
    listener, _ = wire.listen(timing=replace(QUICK, clock=Ahead()))
    listener.facts = run_facts(RunSpec()) | {"model": "another"}
    run = tmp_path / "run.yaml"
    run.write_text("name: x\n")
    arguments = ["check", "link", format_address(listener.address), "--certs", str(fleet), "--site", "b"]
    assert main([*arguments, "--run", str(run)]) == 5
    said = capsys.readouterr().err
    assert "2 problems found" in said
    assert "'model' differs" in said
    assert "ahead of" in said


def test_check_link_where_nobody_listens(wire, fleet, capsys):
    listener, _ = wire.listen()
    listener.close()
    address = format_address(listener.address)
    assert main(["check", "link", address, "--certs", str(fleet), "--site", "a"]) == 4
    assert "cannot connect" in capsys.readouterr().err
    with pytest.raises(UnreachableError):
        measure.measure(listener.address, ClientTls.load(fleet, "a"))


def test_certs_verbs(tmp_path, capsys):
    folder = str(tmp_path / "fleet")
    assert main(["certs", "init", folder, "--site", "jinan", "--site", "b", "--server-host", "10.0.0.1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{folder}/server", f"{folder}/jinan", f"{folder}/b"]
    assert main(["certs", "init", folder, "--site", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": folder, "made": [], "sites": ["b", "jinan"]}
    assert main(["certs", "show", folder, "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "b", "isthmus authority", "jinan", "server",
    ]  # fmt: skip
    assert main(["certs", "show", folder]) == 0
    assert "0o600" in capsys.readouterr().out
    assert main(["certs", "show", str(tmp_path / "nowhere")]) == 3
    assert main(["certs", "init", folder, "--site", "a/b"]) == 2
