"""Predicted against measured step times of published runs, each by a belief that did not see it."""

import math
from collections import defaultdict
from collections.abc import Callable
from statistics import mean, median

import numpy as np

from isthmus.planner.belief.query import FACTORS, PLACE
from isthmus_bench.document import Result
from isthmus_bench.planner.folds import (
    DRAWS,
    Run,
    Said,
    by_fold,
    by_framework,
    by_source,
    left_out,
    left_out_but_one,
    published_runs,
    without,
)

PLAIN = "FLOPs, one efficiency per chip generation and format (same folds)"
CALCULON = {"Calculon (its own 8 rows, as published)": 0.0365}
SAILOR = {"Sailor (its own rows, as published)": 0.06}
SEQUENCE = [name for name, _ in PLACE].index("log sequence length")
NEAR = 0.01
"""Runs of one layout sweep that differ by less are not ranked."""


def run(quick: bool) -> list[Result]:
    """About a minute; `quick` leaves a half of the rows out."""
    runs = published_runs()
    runs = runs[::2] if quick else runs
    folds, sources = by_fold(runs), by_source(runs)
    crossed, unseen = left_out(runs, folds), left_out(runs, sources)
    return [
        *_calibrated(runs, crossed, folds),
        *_source_out(runs, sources),
        *_unseen(runs, unseen, sources),
        *rankings(crossed),
        Result(
            "planner.time_error.coverage",
            mean(each.inside for each in crossed),
            "ratio",
            {"of sources left out": mean(each.inside for each in unseen)},
            "of the runs that lie in their 90 % interval, in cross-validation",
        ),
    ]


def _calibrated(runs: list[Run], crossed: list[Said], folds: list[list[Run]]) -> list[Result]:
    plain = flops_errors(runs, folds)
    errors = [each.error for each in crossed]
    groups = len({each.run.group for each in crossed})
    note = (
        f"{len(errors)} rows, {groups} groups of framework and chip, 10-fold: fitted without the "
        f"fold; a row of each group is outside of it; median {median(errors):.3f}"
    )
    return [
        Result(
            "planner.time_error.calibrated",
            mean(errors),
            "ratio",
            {PLAIN: mean(plain), **CALCULON, **SAILOR},
            note,
        ),
        Result(
            "planner.time_error.calibrated.p90",
            float(np.quantile(errors, 0.9)),
            "ratio",
            {PLAIN: float(np.quantile(plain, 0.9))},
        ),
    ]


def _source_out(runs: list[Run], sources: list[list[Run]]) -> list[Result]:
    """The strictest reading: nothing of the source but one row for each framework and chip."""
    draws = [left_out_but_one(runs, sources, draw) for draw in range(DRAWS)]
    errors = [each.error for draw in draws for each in draw]
    note = (
        "fitted without the whole source, then one row of it for each framework and chip; mean of "
        f"{DRAWS} choices of these rows; median {median(errors):.3f}, p90 {np.quantile(errors, 0.9):.3f}"
    )
    return [Result("planner.time_error.calibrated.source_out", mean(errors), "ratio", {}, note)]


def _unseen(runs: list[Run], unseen: list[Said], sources: list[list[Run]]) -> list[Result]:
    plain = flops_errors(runs, sources)
    by_name = _means(unseen, lambda run: run.seen.source)
    systems = left_out(runs, by_framework(runs))
    worst = max(by_name, key=lambda name: by_name[name][0])
    told = "; ".join(f"{_short(name)} {error:.3f} ({count})" for name, (error, count) in by_name.items())
    framework = _means(systems, lambda run: run.groups.framework)
    systems_told = "; ".join(f"{name} {error:.3f}" for name, (error, _) in framework.items())
    peers = {PLAIN: mean(plain)}
    return [
        Result(
            "planner.time_error.unseen",
            mean(each.error for each in unseen),
            "ratio",
            peers,
            f"each source left out: {told}",
        ),
        Result(
            "planner.time_error.unseen.worst_source",
            by_name[worst][0],
            "ratio",
            {},
            f"{worst}, {by_name[worst][1]} rows",
        ),
        Result(
            "planner.time_error.unseen.system",
            mean(each.error for each in systems),
            "ratio",
            {},
            f"each system left out with all of its releases: {systems_told}",
        ),
    ]


def _means(said: list[Said], key: Callable[[Run], str]) -> dict[str, tuple[float, int]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for each in said:
        groups[key(each.run)].append(each.error)
    return {name: (mean(errors), len(errors)) for name, errors in sorted(groups.items())}


def _short(source: str) -> str:
    return source.replace("performance summary", "").replace("NeMo Container", "")[:34].strip()


def flops_errors(runs: list[Run], parts: list[list[Run]]) -> list[float]:
    """The plain model: FLOPs with what is computed again and the bubble over the peak rate, one efficiency
    for each format on each generation of chips, the geometric mean of the runs that are not in the part."""
    errors: list[float] = []
    for part in parts:
        train = without(runs, part)
        logs = {run.id: math.log(run.step_s / ideal_s(run)) for run in train}
        for run in part:
            slowness = mean(logs[each.id] for each in _nearest(train, run))
            errors.append(abs(ideal_s(run) * math.exp(slowness) / run.step_s - 1))
    return errors


def _nearest(train: list[Run], run: Run) -> list[Run]:
    """Runs of its chip generation and format; of its generation; all."""
    generation = [each for each in train if each.groups.generation == run.groups.generation]
    return [each for each in generation if each.groups.recipe == run.groups.recipe] or generation or train


def ideal_s(run: Run) -> float:
    """Products and attention core at peak, with what is computed again and the bubble."""
    features = run.seen.query.features
    indices = [FACTORS.index(name) for name in ("matmul", "attention")]
    parts = [features.compute, *([features.bubble] if features.bubble else [])]
    return sum(part[index] for part in parts for index in indices)


def rankings(crossed: list[Said]) -> list[Result]:
    """Kendall's tau over the pairs of runs in a group, by tokens/s of a chip; runs within 1 % are no pair."""
    return [
        _ranking(
            "planner.ranking", crossed, _of_model, "of one source, model and chip, whatever else differs"
        ),
        _ranking("planner.ranking.same_work", crossed, _of_work, "also of one sequence length and format"),
    ]


def _of_model(run: Run) -> tuple[str, ...]:
    return run.seen.source, run.seen.model, run.groups.chip


def _of_work(run: Run) -> tuple[str, ...]:
    return *_of_model(run), str(run.seen.query.place[SEQUENCE]), run.groups.recipe


def _ranking(name: str, crossed: list[Said], key: Callable[[Run], tuple[str, ...]], told: str) -> Result:
    groups: dict[tuple[str, ...], list[Said]] = defaultdict(list)
    for each in crossed:
        groups[key(each.run)].append(each)
    counts = [(good, pairs) for good, pairs in map(_pairs, groups.values()) if pairs]
    total = sum(pairs for _, pairs in counts)
    tau = 2 * sum(good for good, _ in counts) / total - 1 if total else 0.0
    by_group = mean(2 * good / pairs - 1 for good, pairs in counts) if counts else 0.0
    note = f"{told}: {total} pairs in {len(counts)} groups; mean over the groups {by_group:.3f}"
    return Result(name, tau, "tau", {}, note)


def _pairs(members: list[Said]) -> tuple[int, int]:
    """(pairs in the right order, pairs)"""
    good = pairs = 0
    for index, one in enumerate(members):
        for other in members[index + 1 :]:
            measured = math.log(_rate(one, one.run.step_s) / _rate(other, other.run.step_s))
            if abs(measured) < NEAR:
                continue
            said = math.log(_rate(one, one.estimate.step_s) / _rate(other, other.estimate.step_s))
            pairs += 1
            good += measured * said > 0
    return good, pairs


def _rate(said: Said, step_s: float) -> float:
    return said.run.seen.tokens / step_s
