"""Incidents in the terminal and on the page: a made-up run whose agent heals most of them."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from isthmus.journal import events as e
from isthmus.journal.fold import fold
from isthmus.journal.view import RunView
from isthmus.journal.writer import Journal
from isthmus.ui import cli, tables

START_S = 1_760_000_000.0
AGENT = "agent/jinan"
EVIL = '"><script>&'


def healed_run() -> list[e.AnyEvent]:
    """Two hours of training with heals of below a second, one of minutes, and one that is open at the end."""
    told: list[e.AnyEvent] = [
        e.RunStarted(
            wall_s=0.0, source="launcher", name="healed", sites=["jinan", "qingdao"], num_params=10**9,
            token_budget=10**9, code_version="0.1.0", seq_len=64,
        ),
    ]  # fmt: skip
    for site in ("jinan", "qingdao"):
        told += [_step(site, i, 4.0 * i) for i in range(1, 1800)]
    told += _incident(900.2, 1, "rank-jinan-2", "rank_died", ("crash", "", "restart_rank"), 0.9)
    told += _incident(1800.4, 2, "rank-jinan-2", "hang", ("hang", "NCCL-WATCHDOG", "restart_rank"), 3.2)
    told += _incident(
        2400.1, 3, "rank-jinan-5", "nan", ("sdc", "NAN-ONE-RANK", "rollback"), 0.62, lost_steps=12
    )
    told += [_step("jinan", 588 + i, 2400.8 + 0.01 * i) for i in range(12)]
    told += _incident(4000.0, 4, "rank-jinan-11", "rank_died", ("ecc", "XID-48", "replace_node"), 96.0)
    told += [
        e.Fault(wall_s=3000.0, source="launcher", subject="server", kind="server_died", detail="exit -9"),
        e.Recovered(wall_s=3004.5, source="launcher", subject="server", kind="server_died", after_s=4.5),
        e.Fault(wall_s=5000.0, source="site/qingdao", subject="link/qingdao", kind="link_down", detail=EVIL),
        e.Recovered(wall_s=5042.0, source="x", subject="link/qingdao", kind="link_down", after_s=42.0),
        e.Fault(
            wall_s=7150.3, source=AGENT, subject="rank-jinan-7", kind="fail_slow", detail=EVIL,
            began_s=START_S + 7140,
        ),
        _diagnosis(7151.0, "rank-jinan-7", ("fail_slow", "GPU-CLOCK", "quarantine")),
    ]  # fmt: skip
    told.sort(key=lambda event: event.wall_s)
    return [_shifted(event) for event in told]


def _shifted(event: e.AnyEvent) -> e.AnyEvent:
    return type(event)(
        **{name: getattr(event, name) for name in event.__struct_fields__}
        | {"wall_s": START_S + event.wall_s}
    )


def _step(site: str, number: int, at_s: float) -> e.StepDone:
    return e.StepDone(
        wall_s=at_s, source=f"rank/{site}/0", site=site, step=number, tokens=4096,
        loss=2.0 + 100 / (40 + number), lr=1e-3, grad_norm=1.0, step_s=4.0, wait_s=0.1, version=1,
    )  # fmt: skip


def _diagnosis(at_s: float, subject: str, found: tuple[str, str, str]) -> e.Diagnosed:
    fault_class, entry, action = found
    return e.Diagnosed(
        wall_s=at_s, source=AGENT, subject=subject, fault_class=fault_class, entry=entry, action=action,
        confidence=0.93, cause=f"a cause of {fault_class} {EVIL}", verify="the check passes",
        evidence=[f"{subject}.log:812: {EVIL}", "page of rank 2: no step for 0.4 s"],
    )  # fmt: skip


def _incident(
    at_s: float, generation: int, subject: str, kind: str, found: tuple[str, str, str], took_s: float,
    lost_steps: int = 0,
) -> list[e.AnyEvent]:  # fmt: skip
    began_s = START_S + at_s
    return [
        e.Fault(
            wall_s=at_s + 0.1 * took_s, source=AGENT, subject=subject, kind=kind, detail="gone",
            began_s=began_s,
        ),
        _diagnosis(at_s + 0.25 * took_s, subject, found),
        e.Healed(
            wall_s=at_s + took_s + 0.01, source=AGENT, site="jinan", subjects=[subject], kind=found[2],
            generation=generation, step=int(at_s / 4), lost_steps=lost_steps, began_s=began_s,
            detected_s=began_s + 0.1 * took_s, diagnosed_s=began_s + 0.25 * took_s,
            regrouped_s=began_s + 0.7 * took_s, resumed_s=began_s + took_s,
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def view() -> RunView:
    return fold(healed_run())


def rendered(view: RunView, now_s: float) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.status(view, now_s))
    console.file.close()
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def test_status_shows_open_incidents_first(view: RunView, snapshot):
    assert rendered(view, view.last_s + 1) == snapshot


def test_json_has_all_of_them(tmp_path: Path, capsys):
    with Journal(tmp_path, AGENT) as journal:
        for event in healed_run():
            if isinstance(event, e.Fault | e.Diagnosed | e.Healed):
                journal.emit(event)
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["incidents"]) == told["recovery"]["incidents"] == 7
    assert cli.main(["logs", str(tmp_path), "--site", "jinan", "--type", "Healed"]) == 0
    assert capsys.readouterr().out.count("generation=") == 4
