"""Plans, scores and profiles as people read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from isthmus.errors import InputError, NotFoundError
from isthmus.planner.plan import Expected, PipelinePlan, Plan, StagePlan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.published.score import Score
from isthmus.units import Bytes, Count, Seconds


def read_plan(path: Path) -> Plan:
    """Raises NotFoundError, and InputError if it is not a plan."""
    return _read(path, Plan, "isthmus plan --out")


def read_profile(path: Path) -> Profile:
    """Raises NotFoundError, and InputError if it is not a profile."""
    return _read(path, Profile, "isthmus probe --out")


_T = TypeVar("_T")


def _read(path: Path, kind: type[_T], made_by: str) -> _T:
    hint = f"`{made_by} FILE` makes one"
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise NotFoundError(
            "there is no such file", where=str(path), hint=f"`{made_by} FILE` makes one"
        ) from None
    except (msgspec.MsgspecError, IsADirectoryError) as error:
        what = kind.__name__.lower()
        raise InputError(f"this is no {what}: {error}", where=str(path), hint=hint) from None


def shown(plan: Plan) -> RenderableType:
    """Expectation, the sites' layouts, the plans considered, the reasons."""
    parts: list[RenderableType] = [_summary(plan)]
    if plan.expected:
        parts += [_expectation(plan.expected), _parts(plan.expected)]
    parts += [_stages(plan), _considered(plan)]
    notes = [f"- {reason}" for reason in plan.reasons] + [f"warning: {each}" for each in plan.warnings]
    return Group(*parts, *notes)


def _summary(plan: Plan) -> str:
    chips = sum(site.num_ranks for site in plan.sites)
    sites = f"{len(plan.sites)} site{'s' * (len(plan.sites) > 1)}"
    model = f"{Count(plan.num_params)} parameters, {Count(plan.active_params)} active per token"
    return f"{model}, on {chips} chips at {sites}; H {plan.inner_steps}, {plan.codec}"


def _expectation(expected: Expected) -> str:
    range_ = f"{Seconds(expected.low_s)} to {Seconds(expected.high_s)}"
    return (
        f"step {Seconds(expected.step_s)} (nine of ten: {range_}; played event by event: "
        f"{Seconds(expected.simulated_s)}), {Count(round(expected.tokens_per_s))} tokens/s; "
        f"no plan takes less than {Seconds(expected.bound_s)}, a gap of {expected.gap:.1%}"
    )


def _parts(expected: Expected) -> Table:
    table = Table(title="where a step's seconds go", title_justify="left")
    for column in ("part", "seconds", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, seconds in sorted(expected.parts.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.4g}", f"{seconds / expected.step_s:.1%}")
    return table


def _stages(plan: Plan) -> Table:
    table = Table(title="stages", title_justify="left")
    for column in (
        "site",
        "chip",
        "stages",
        "replicas x batch",
        "tp",
        "layers",
        "recomputed",
        "memory",
        "of",
    ):
        table.add_column(column, justify="left" if column in ("site", "chip") else "right")
    for site in plan.sites:
        for pipeline in site.pipelines:
            for row in _runs_of_stages(pipeline):
                table.add_row(*row)
    return table


def _runs_of_stages(pipeline: PipelinePlan) -> Iterator[tuple[str, ...]]:
    """Consecutive stages that are alike, as one row each."""
    layout, stages = pipeline.layout, pipeline.stages
    start = 0
    for index, stage in enumerate(stages):
        following = stages[index + 1] if index + 1 < len(stages) else None
        if following is not None and _alike(stage, following):
            continue
        most = max(each.memory_bytes for each in stages[start : index + 1])
        name = f"{start}" if start == index else f"{start}-{index}"
        yield (
            stage.site,
            stage.chip,
            name,
            f"{layout.dp} x {layout.micro_batches} x {layout.micro_batch}",
            str(stage.tp),
            str(stage.held_layers),
            str(stage.recompute_layers),
            str(Bytes(most)),
            str(Bytes(stage.memory_limit)),
        )
        start = index + 1


def _alike(left: StagePlan, right: StagePlan) -> bool:
    def key(stage: StagePlan) -> tuple[object, ...]:
        return stage.site, stage.chip, stage.tp, stage.held_layers, stage.recompute_layers

    return key(left) == key(right)


def _considered(plan: Plan) -> Table:
    table = Table(title="plans considered", title_justify="left")
    for column in ("plan", "step", "", "why"):
        table.add_column(column, justify="right" if column == "step" else "left")
    for each in plan.considered:
        step = str(Seconds(each.step_s)) if each.step_s is not None else "-"
        table.add_row(each.name, step, "CHOSEN" if each.chosen else "", each.why)
    return table


def scores(rows: list[Score]) -> Table:
    table = Table(title="Nine of ten such runs take between low and high.", title_justify="left")
    for column in ("id", "step s", "low", "high", "tokens/s/chip", "TFLOPS/chip", "memory GiB"):
        table.add_column(column, justify="left" if column == "id" else "right", no_wrap=True)
    table.add_column("assumed, or why not")
    for each in rows:
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
