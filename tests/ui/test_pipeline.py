"""The pictures of a pipeline: every operation in its lane and place, every byte in its bar."""

import re
from importlib.resources import files
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from isthmus.planner.schedule import Pipeline, simulate
from isthmus.ui.report import pipeline
from isthmus.ui.report.pipeline import MEMORY_TINTS, TINTS, Operation, StageMemory
from isthmus.ui.report.svg import LANE_HEIGHT, LANE_WIDTH, RIGHT

CHIPS = ["ascend910b", "h100 & more", "a-chip-with-a-name-that-no-lane-can-hold"]


def chart(figure: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", figure)
    assert found
    return ElementTree.fromstring(found[0])


def bars(figure: str) -> list[dict[str, str]]:
    """Attributes of each bar and mark, with its title."""
    return [
        {**rect.attrib, "title": "".join(rect.itertext())}
        for rect in chart(figure).iter("rect")
        if rect.attrib["class"].split()[0] in ("bar", "mark")
    ]


def lane(bar: dict[str, str]) -> int:
    return int(float(bar["y"]) // LANE_HEIGHT)


@pytest.fixture
def line():
    return simulate(
        Pipeline(
            forward_SV=np.full(3, 0.01),
            backward_SV=np.full(3, 0.02),
            recompute_SV=np.array([0.01, 0.0, 0.0]),
            micro_batches=4,
        )
    )


def test_every_operation_is_drawn_in_its_lane(line):
    figure = pipeline.step(CHIPS, pipeline.operations(line))
    drawn = bars(figure)
    kinds = [(lane(bar), bar["class"].split()[1]) for bar in drawn]
    for stage in range(3):
        assert kinds.count((stage, "forward")) == kinds.count((stage, "backward")) == 4
        assert kinds.count((stage, "idle")) == 1
    assert kinds.count((0, "recompute")) == 4
    assert len(kinds) == 3 * 9 + 4
    assert "forward, micro-batch 0: 10 ms from 0 ms" in [bar["title"] for bar in drawn]
    assert "One step: 200 ms" in figure
    for name in ("forward", "backward", "recompute", "idle"):
        assert f"</i>{name}</span>" in figure
    assert "gradient of the weights" not in figure


def test_bars_keep_their_proportions_and_never_overlap(line):
    drawn = [
        bar for bar in bars(pipeline.step(CHIPS, pipeline.operations(line))) if "idle" not in bar["class"]
    ]
    for stage in range(3):
        row = sorted((float(bar["x"]), float(bar["width"])) for bar in drawn if lane(bar) == stage)
        for (x, width), (after, _) in pairwise(row):
            assert x + width <= after + 0.02
    widths = {kind: float(bar["width"]) for bar in drawn for kind in TINTS if kind in bar["class"].split()}
    assert widths["backward"] == pytest.approx(2 * widths["forward"], abs=0.02)
    assert max(float(bar["x"]) + float(bar["width"]) for bar in drawn) == pytest.approx(LANE_WIDTH - RIGHT)


def test_idle_shares_are_of_the_step(line):
    titles = [bar["title"] for bar in bars(pipeline.step(CHIPS, pipeline.operations(line)))]
    share = 1 - line.busy_S[1] / line.makespan_s
    assert f"h100 & more: idle {100 * share:.1f} %" in titles


def test_names_fit_beside_their_lanes(line):
    names = [text for text in chart(pipeline.step(CHIPS, pipeline.operations(line))).iter("text")]
    lanes = [name for name in names if name.attrib["class"] == "lane"]
    cut = "2 a-chip-with-a-name-that…"
    assert [name.text for name in lanes] == ["0 ascend910b", "1 h100 & more", cut]
    for name in lanes:
        assert float(name.attrib["x"]) >= 7.5 * len(name.text or "")


def test_chunks_and_halves_of_backward_are_told():
    figure = pipeline.step(
        ["a"],
        [
            Operation(stage=0, kind="forward", start_s=0.0, end_s=1.0, micro_batch=0, chunk=1),
            Operation(stage=0, kind="weight", start_s=1.0, end_s=2.5, micro_batch=3),
        ],
    )
    titles = [bar["title"] for bar in bars(figure)]
    assert "forward, micro-batch 0, chunk 1: 1 s from 0 ms" in titles
    assert "gradient of the weights, micro-batch 3, chunk 0: 1.5 s from 1 s" in titles


def test_a_long_step_ends_where_its_lanes_are_full():
    line = simulate(Pipeline(forward_SV=np.ones(64), backward_SV=np.ones(64), micro_batches=300))
    figure = pipeline.step([""] * 64, pipeline.operations(line))
    assert len(bars(figure)) <= pipeline.MOST_OPERATIONS + 64
    assert re.search(r"One step: 12 min 06 s, of which the first \S+ .{0,12}are shown", figure)
    assert all(float(bar["width"]) >= 0 for bar in bars(figure))


def test_nothing_to_draw():
    assert "One step: 0 ms" in pipeline.step(["a"], [])
    assert "Memory" in pipeline.memory([], [])


def test_memory_is_stacked_up_to_its_total():
    held = [
        StageMemory(parts={"activations": 20e9, "weights": 10e9, "buffers": 2e9, "scratch": 3e9}, limit=40e9),
        StageMemory(parts={"weights": 10e9, "gradients": 10e9, "optimizer": 30e9}, limit=45e9),
    ]
    figure = pipeline.memory(["a", "b"], held)
    first = [bar for bar in bars(figure) if lane(bar) == 0 and "bar" in bar["class"].split()]
    assert [bar["class"] for bar in first] == ["bar weights", "bar activations", "bar other"]
    for bar, after in pairwise(first):
        assert float(bar["x"]) + float(bar["width"]) == pytest.approx(float(after["x"]), abs=0.02)
    widths = [float(bar["width"]) for bar in first]
    assert widths[1] / widths[0] == pytest.approx(2, abs=0.01)
    assert first[2]["title"] == "a: other 5.00 GB of 35.0 GB"
    limits = [bar for bar in bars(figure) if "limit" in bar["class"]]
    assert [bar["title"] for bar in limits] == ["a: 40.0 GB may be used", "b: 45.0 GB may be used"]
    second = [bar for bar in bars(figure) if lane(bar) == 1 and "bar" in bar["class"].split()]
    end = float(second[-1]["x"]) + float(second[-1]["width"])
    assert float(limits[1]["x"]) < end, "beyond its limit"
    assert "10 GB" in "".join(chart(figure).itertext())


def test_every_kind_has_its_colour():
    css = files("isthmus.ui.report").joinpath("page.css").read_text()
    for kind in (*TINTS, *MEMORY_TINTS, "idle", "limit"):
        rule = re.search(rf"\.{kind}\b[^{{}}]*{{([^}}]*)}}", css)
        assert rule, kind
        assert {**TINTS, **MEMORY_TINTS, "idle": "var(--grid)", "limit": "var(--bad)"}[kind] in rule[1]
