"""`isthmus plan`: what a plan of training costs."""

from pathlib import Path

import msgspec
from cyclopts import App
from rich.table import Table

from isthmus.planner.published.rows import read_rows
from isthmus.planner.published.score import Score, score_rows
from isthmus.ui import tables

app = App(name="plan", help="Plan a run, and judge plans and measured runs.")


@app.command
def score(rows: Path, *, calibrate: Path | None = None, json_: bool = False) -> None:
    """Predict step time, throughput and memory of each training run in a CSV.

    A row that cannot be modelled says why. Where a column is empty, what is usual is assumed, and named.

    Parameters
    ----------
    rows
        CSV with the columns id, source, model, chip, n_chips, and any of those of docs/cost-model.md.
    calibrate
        CSV of measured runs like yours; one for each framework and chip is enough to move predictions.
    json_
        Print one JSON object: {"rows": [{"id", "step_time_s", "tokens_per_s_per_chip", "tflops_per_chip",
        "memory_gb", "interval", "provenance", "reason"}]}, in the order of the CSV.
    """
    scores = score_rows(read_rows(rows), read_rows(calibrate) if calibrate else None)
    if json_:
        print(msgspec.json.encode({"rows": scores}).decode())
    else:
        tables.console().print(_table(scores))


def _table(scores: list[Score]) -> Table:
    table = Table(title="Nine of ten such runs take between low and high.", title_justify="left")
    for column in ("id", "step s", "low", "high", "tokens/s/chip", "TFLOPS/chip", "memory GiB"):
        table.add_column(column, justify="left" if column == "id" else "right", no_wrap=True)
    table.add_column("assumed, or why not")
    for each in scores:
        table.add_row(each.id, *_figures(each), _told(each))
    return table


def _figures(score: Score) -> list[str]:
    low, high = score.interval or (None, None)
    figures = (
        score.step_time_s, low, high, score.tokens_per_s_per_chip, score.tflops_per_chip, score.memory_gb,
    )  # fmt: skip
    return ["-" if value is None else f"{value:.4g}" for value in figures]


def _told(score: Score) -> str:
    assumed = [line.removeprefix("assumed: ") for line in score.provenance if line.startswith("assumed: ")]
    return score.reason or "; ".join(assumed)
