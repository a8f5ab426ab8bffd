"""The report page: complete, self-contained, well-formed, and drawn from whatever a journal holds."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from isthmus.journal import events as e
from isthmus.journal.fold import fold
from isthmus.journal.reader import read
from isthmus.journal.view import RunView
from isthmus.ui import cli
from isthmus.ui.report import curves
from isthmus.ui.report.page import render
from isthmus.ui.report.svg import Axis, Bar, Series, line_chart, ticks

VOID = {"meta", "br", "link", "img"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page: str) -> Balance:
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not balance.seen & {"script", "link", "img", "iframe"}
    assert not re.search(r"https?://|@import|url\(|\bsrc=", page)
    for chart in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(chart)
    return balance


def test_the_page_is_whole_and_needs_nothing_else(run_dir: Path, capsys):
    assert cli.main(["report", str(run_dir)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == run_dir / "report.html"
    page = path.read_text()
    checked(page)
    for said in ("two-sites", "equivalent compute", "0.962", "jinan", "qingdao", "Fate of the tokens"):
        assert said in page
    assert "preset: tiny-moe" in page
    assert "rank-qingdao-0: rank_died at 1:58 for 7.7 s" in page
    assert page.count("<svg") == 9 + 8 + 5
    assert len(page) < 300_000


def test_a_run_under_way_and_an_empty_one(running_dir: Path):
    assert "running" in render(fold(read(running_dir)))
    checked(render(fold(read(running_dir))))
    checked(render(RunView()))


def test_figures_as_json(run_dir: Path, tmp_path: Path, capsys):
    assert cli.main(["report", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["merges"] == 17
    out = tmp_path / "r.html"
    assert cli.main(["report", str(run_dir), "--json", "--out", str(out)]) == 0
    assert out.exists()


def test_a_place_that_cannot_be_written(run_dir: Path, tmp_path: Path, capsys):
    assert cli.main(["report", str(run_dir), "--out", str(tmp_path / "no" / "r.html")]) == 1
    assert "--out" in capsys.readouterr().err


def test_names_are_escaped_and_a_lost_loss_is_drawn_around():
    nan_step = e.StepDone(
        wall_s=2.0, site="<b>&", step=1, tokens=1, loss=math.nan, lr=1.0, grad_norm=math.inf, step_s=1.0,
        wait_s=0.0, version=0,
    )  # fmt: skip
    broken = e.Fault(wall_s=3.0, subject='"><script>', kind="<i>", detail="&")
    page = render(fold([nan_step, broken]), {"run.yaml": "<script>"})
    checked(page)
    assert "<b>&" not in page


def test_lines_break_at_holes():
    series = Series(name="a", colour="red", points=[(0, 1), (1, 2), (2, math.nan), (3, 1), (4, 2)])
    chart = line_chart([series], Axis(show=str), Axis(show=str), [Bar(start=1, end=2, title="t", kind="bad")])
    (path,) = [node for node in ElementTree.fromstring(chart) if node.tag == "path"]
    assert path.attrib["d"].count("M") == 2
    assert path.attrib["d"].count("L") == 2


@pytest.mark.parametrize(
    ("low", "high", "time", "expected"),
    [
        (0.0, 10.0, False, [0, 2.5, 5, 7.5, 10]),
        (3.1, 8.9, False, [4, 6, 8]),
        (0.0, 180.0, True, [0, 60, 120, 180]),
        (0.0, 0.0, False, [0.0]),
        (0.0, 9e9, True, [0, 2.5e9, 5e9, 7.5e9]),
    ],
)
def test_ticks_are_round(low: float, high: float, time: bool, expected: list[float]):
    assert ticks(low, high, 4, time) == pytest.approx(expected)


def test_rates_are_gains_per_second():
    rows = [(100.0 + i, 50.0 * i) for i in range(11)]
    points = curves.rate(RunView(started_s=100.0), rows, 1)
    assert len(points) == 5
    assert [y for _, y in points] == pytest.approx([50.0] * 5)
    assert curves.rate(RunView(), rows[:1], 1) == []


def test_smoothing_keeps_the_ends_and_does_not_lag():
    straight = [(float(i), 2.0 * i) for i in range(50)]
    assert [y for _, y in curves.smoothed(straight)] == pytest.approx([y for _, y in straight])


def many(layers: int, experts: int, events: int, load: int = 1) -> list[e.AnyEvent]:
    return [
        e.ExpertsCounted(
            wall_s=100.0 + 5 * i, source="rank/a/0", site="a", step=i, steps=1, layers=list(range(layers)),
            load=[[load * (1000 + (7 * x + 3 * i) % 500) for x in range(experts)] for _ in range(layers)],
            dropped=[[0] * experts] * layers, entropy=[1.0] * layers, coef=[0.01] * layers,
            similarity=[0.1] * layers,
        )
        for i in range(events)
    ]  # fmt: skip


def test_the_made_up_run_shows_its_dead_expert(run_dir: Path):
    page = render(fold(read(run_dir)))
    assert "<h2>Experts</h2>" in page
    assert page.count("<image") == 4
    assert "expert 5: 0.00 at the end" in page
    assert "<td>5</td></tr>" in page


def test_a_large_model_has_an_overview_and_a_small_page():
    page = render(fold(many(layers=24, experts=128, events=300)))
    checked(page)
    assert "The latest values of all 24 layers" in page
    assert page.count("<image") == 6 + 4
    assert "Weight of the balance loss" not in page
    assert len(page) < 400_000


def test_few_events_and_one_expert_are_drawn():
    checked(render(fold(many(layers=1, experts=2, events=1))))
    checked(render(fold(many(layers=1, experts=1, events=2))))
    checked(render(fold(many(layers=9, experts=2, events=2, load=0))))
