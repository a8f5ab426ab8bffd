"""`python -m isthmus_bench.upcycle --plot PATH [--quick]`: the benchmark, and its curves as an SVG file."""

import argparse
from pathlib import Path

from isthmus.ui.report.sheet import COLOURS, Panel, sheet
from isthmus.ui.report.svg import Axis, Series
from isthmus.ui.text import tick
from isthmus_bench.__main__ import show
from isthmus_bench.upcycle import (
    FULL,
    LONGER,
    ON,
    QUICK,
    SCRATCH,
    UPCYCLED,
    Measured,
    mean_curve,
    measure,
    results,
)
from isthmus_bench.upcycle.arms import BATCH, SEQ_LEN

KINDS = (ON, UPCYCLED, SCRATCH, LONGER)
ROOM = 0.1
"""Nats above the dense model's loss at which the chart ends: training from scratch starts far above."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m isthmus_bench.upcycle")
    parser.add_argument("--plot", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    measured = measure(QUICK if arguments.quick else FULL)
    show(results(measured))
    arguments.plot.write_text(chart(measured))


def chart(measured: Measured) -> str:
    """Held-out loss, and how much alike the experts are, against tokens since the dense checkpoint."""
    tokens = Axis(show=tick, low=0.0)
    top = mean_curve(measured, ON, "losses")[0] + ROOM
    losses = [_series(measured, name, "losses", index, top) for index, name in enumerate(KINDS)]
    alike = [_series(measured, name, "similarity", KINDS.index(name), 1.0) for name in (UPCYCLED, SCRATCH)]
    return sheet([
        Panel("Held-out loss (nats) by tokens since the dense checkpoint", losses, tokens, Axis(show=_two)),
        Panel("Similarity of the experts (mean cosine)", alike, tokens, Axis(show=_two, low=0.0)),
    ])  # fmt: skip


def _series(measured: Measured, name: str, field: str, index: int, top: float) -> Series:
    values = mean_curve(measured, name, field)
    num_steps = next(arm.num_steps for arm in measured.curves if arm.name == name)
    part = num_steps * BATCH * SEQ_LEN / (len(values) - 1)
    points = [(i * part, value) for i, value in enumerate(values) if value <= top + 1e-6]
    return Series(name=name, colour=COLOURS[index], points=points, dots=True)


def _two(value: float) -> str:
    return f"{value:.2f}"


if __name__ == "__main__":
    main()
