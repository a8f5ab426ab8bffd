"""Incidents in the terminal and on the page: a made-up run whose agent heals most of them."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from rich.console import Console

from isthmus.journal import events as e
from isthmus.journal.figures import figures
from isthmus.journal.fold import fold
from isthmus.journal.view import KEPT, RunView
from isthmus.journal.writer import Journal
from isthmus.ui import cli, tables
from isthmus.ui.report.incidents import section
from isthmus.ui.report.page import render
from isthmus.ui.report.svg import Axis

START_S = 1_760_000_000.0
AGENT = "agent/jinan"
EVIL = '"><script>&'


def checked(page: str) -> None:
    """Well-formed, and nothing that runs or is fetched."""
    balance: list[str] = []
    for closing, tag in re.findall(r"<(/?)([a-z][a-z0-9]*)[^>]*?(?<!/)>", page):
        if closing:
            assert balance.pop() == tag
        elif tag not in ("meta", "br"):
            balance.append(tag)
    assert balance == []
    assert not re.search(r"https?://|@import|url\(|\bsrc=", page)
    for chart in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(chart)


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
    console = Console(width=124, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
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


def test_the_page_shows_every_incident_and_where_its_time_went(view: RunView):
    page = render(view)
    checked(page)
    assert "<script>" not in page
    assert page.count('<tr class="more">') == len(view.incidents) == 7
    for of in view.incidents:
        assert f"<b>{of.subject}</b>" in page
    for said in (
        "NCCL-WATCHDOG",
        "Back within 1 s",
        "1 s to 10 s",
        "1 min to 10 min",
        "Not over yet",
        "ETTR",
    ):
        assert said in page
    assert "until found 62 ms, until diagnosed 93 ms, until regrouped 279 ms, until back 186 ms" in page
    assert page.count('class="text" colspan="8"') == 7


def strips(page: str) -> list[list[tuple[str, float, float]]]:
    """Of each strip its (class, left, width)."""
    found = re.findall(r'<td class="strip">(<svg.*?</svg>)', page)
    return [
        [
            (rect.attrib["class"].removeprefix("bar "), float(rect.attrib["x"]), float(rect.attrib["width"]))
            for rect in ElementTree.fromstring(svg)
            if rect.attrib["class"].startswith("bar")
        ]
        for svg in found
    ]


def test_a_strip_is_to_scale(view: RunView):
    shown = strips(render(view))
    assert [kind for kind, _, _ in shown[0]] == ["detect", "diagnose", "open"]
    longest, shorter = shown[1], shown[2]
    assert [kind for kind, _, _ in longest] == ["detect", "diagnose", "regroup", "resume"]
    assert [width for _, _, width in longest] == pytest.approx([32.0, 48.0, 144.0, 96.0], abs=0.02)
    assert [left for _, left, _ in longest] == pytest.approx([0.0, 32.0, 80.0, 224.0], abs=0.02)
    assert shorter[-1][1] + shorter[-1][2] == pytest.approx(320 * 0.62 / 0.9, abs=0.02)


def test_many_incidents_make_a_page_of_bounded_size():
    told = healed_run()[:20]
    for i in range(600):
        told += [
            e.Fault(
                wall_s=START_S + 100 + i, source=AGENT, subject=f"rank-jinan-{i}", kind="hang", detail=EVIL
            ),
            replace(_diagnosis(0, f"rank-jinan-{i}", ("ecc", "X", "retry")), wall_s=START_S + 100.1 + i),
        ]
    page = render(fold(told))
    checked(page)
    assert page.count('<tr class="more">') == KEPT
    assert "400 earlier ones are not listed" in page
    assert "the last 24 of 200" in page
    assert len(page) < 1_000_000


def test_a_run_without_steps_or_incidents_has_no_section():
    assert section(RunView(), figures(RunView()), Axis(show=str)) == ""
    died = e.Fault(wall_s=5.0, subject="server", kind="server_died", detail="")
    assert "Not over yet" in render(fold([died]))


@pytest.mark.parametrize(
    ("took_s", "shown"), [(0.0, "–"), (0.0002, "at once"), (0.06, "60 ms"), (2.25, "2.25 s")]
)
def test_how_soon_it_was_found(took_s: float, shown: str):
    died = e.Fault(wall_s=64.0 + took_s, source=AGENT, subject="rank-jinan-1", kind="rank_died", detail="")
    told = figures(fold([replace(died, began_s=64.0)])).incidents[0]
    assert tables.found_after(replace(told, detect_s=round(told.detect_s or 0.0, 6))) == shown
