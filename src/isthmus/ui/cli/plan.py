"""`isthmus plan`: the best way to train a model on a fleet, with reasons; scores of measured runs."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from isthmus.journal.store import DiskStore
from isthmus.planner.plan import Plan
from isthmus.planner.probed.profile import Profile
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.load import load_fleet, load_run, split_overrides, to_yaml
from isthmus.spec.run import RunSpec
from isthmus.ui import plan_view, plans, tables

app = App(name="plan", help="Plan a run on a fleet, and judge plans and measured runs.")

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]
Profiles = Annotated[list[Path], Parameter(name="--profile")]


@app.default
def plan(  # noqa: PLR0913 - each is an option of the command
    *,
    fleet: Path | None = None,
    run: Path | None = None,
    profile: Profiles | None = None,
    out: Path | None = None,
    html: Path | None = None,
    runnable: bool = False,
    set_: Overrides | None = None,
    json_: bool = False,
) -> None:
    """Find the best way to train a model on a fleet, and say why.

    Ends with 6 where nothing fits, naming the smallest changes that would help.

    Parameters
    ----------
    fleet
        The fleet.yaml: chips, nodes, sites and links; without it one local site.
    run
        The run.yaml: model, batch, budget, goal; without it all defaults.
    profile
        What `isthmus probe` measured on one of the fleet's machines; may be given again.
    out
        Write the plan as JSON, for `isthmus train --plan`, `isthmus plan export` and `isthmus simulate`.
    html
        Write the plan as one self-contained page: the plans considered, each pipeline's step and memory.
    runnable
        Only what `isthmus train` runs today.
    set_
        Override one field, such as parallel.tp=4; may be given again.
    json_
        Print the plan as one JSON object.
    """
    from isthmus.planner.search.answer import best_plan

    for_run, for_fleet = split_overrides(set_ or [])
    run_spec, fleet_spec = load_run(run, for_run), load_fleet(fleet, for_fleet)
    found = best_plan(fleet_spec, run_spec, _profiles(profile or []), runnable)
    plans.save(out, found)
    if html:
        DiskStore().write_atomic(html, _page(found, run_spec, fleet_spec).encode())
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(plan_view.shown(found))


@app.command
def export(
    plan: Path, *, run: Path, format: Literal["megatron", "torchtitan"] = "megatron", site: str | None = None
) -> None:
    """Print a plan as the configuration of another trainer.

    Parameters
    ----------
    plan
        JSON that `isthmus plan --out` wrote.
    run
        The run.yaml it was made for.
    format
        megatron: arguments of Megatron-LM; torchtitan: its TOML.
    site
        Which site; needed where the plan has several.
    """
    from isthmus.planner.formats import export_plan

    print(export_plan(plans.read_plan(plan), load_run(run), format, site))


@app.command
def config(
    file: Path,
    *,
    chip: str,
    chips: int = 0,
    format: Literal["megatron", "torchtitan"] | None = None,
    fleet: Path | None = None,
    json_: bool = False,
) -> None:
    """Judge a configuration of another trainer, and find the best plan for the same model and chips.

    Parameters
    ----------
    file
        A Megatron-LM script, argument list or YAML, or a torchtitan TOML.
    chip
        What it runs on, such as h100; `isthmus plan chips` lists them.
    chips
        How many; by default what the file says.
    format
        What the file is; by default what it looks like.
    fleet
        A fleet.yaml that defines the chip.
    json_
        Print both as one JSON object.
    """
    from isthmus.planner.chips.find import find_chip
    from isthmus.planner.formats import read_config
    from isthmus.planner.search.foreign import compare
    from isthmus.ui import config_view

    model = find_chip(chip, load_fleet(fleet) if fleet else None)
    found = compare(read_config(plans.read_text(file), chips, format or ""), model)
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(config_view.shown(found))


@app.command
def chips(*, json_: bool = False) -> None:
    """List the chips that the planner knows; ~ marks what is only believed.

    TFLOP/s of dense matrix products; bytes per second of one chip, in one direction.

    Parameters
    ----------
    json_
        Print one JSON array, with the source of each value.
    """
    from isthmus.planner.chips.reference import describe
    from isthmus.ui import config_view

    found = describe()
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(config_view.chips(found))


@app.command
def score(rows: Path, *, calibrate: Path | None = None, json_: bool = False) -> None:
    """Predict step time, throughput and memory of each training run in a CSV.

    A row that cannot be modelled says why. Where a column is empty, what is usual is assumed, and named.

    Parameters
    ----------
    rows
        CSV with the columns id, source, model, chip, n_chips, and any of those of docs/cost-model.md.
    calibrate
        CSV of measured runs like yours, one for each framework and chip is enough: predictions are moved by
        them.
    json_
        Print one JSON object: {"rows": [{"id", "step_time_s", "tokens_per_s_per_chip", "tflops_per_chip",
        "memory_gb", "interval", "provenance", "reason"}]}, in the order of the CSV.
    """
    from isthmus.planner.published.rows import read_rows
    from isthmus.planner.published.score import score_rows

    scores = score_rows(read_rows(rows), read_rows(calibrate) if calibrate else None)
    if json_:
        print(msgspec.json.encode({"rows": scores}).decode())
    else:
        tables.console().print(plans.scores(scores))


@app.command
def replan(  # noqa: PLR0913 - each is an option of the command
    plan: Path,
    *,
    fleet: Path,
    run: Path,
    event: Annotated[list[str], Parameter(negative="")],
    horizon: str = "",
    assume: Annotated[list[str] | None, Parameter(negative="")] = None,
    profile: Profiles | None = None,
    out: Path | None = None,
    json_: bool = False,
) -> None:
    """Say what to do when chips, nodes, links or sites change while a plan runs.

    Prices every option, doing nothing among them, by the tokens that it trains by a horizon, with the time to
    move state and to start again. docs/replan.md tells what is modelled.

    Parameters
    ----------
    plan
        JSON that `isthmus plan --out` wrote, with layouts.
    fleet
        The fleet.yaml it was made for, without the event; a site that is back is in it.
    run
        The run.yaml it was made for.
    event
        'slow site=west chip=a800 nodes=1 speed=0.5', 'lost site=west chip=a800 nodes=2', 'lost-site west',
        'link site=west factor=0.5', 'trunk name=x factor=0.5' or 'back site=west'; with lasts=6h where its
        end is known; may be given again.
    horizon
        How far to look, such as 6h; without it the time of the budget, at most a day.
    assume
        What no file says, such as restart=5min, repair=4h; as of `isthmus simulate`; may be given again.
    profile
        What `isthmus probe` measured on one of the fleet's machines; may be given again.
    out
        Write the plan of the chosen option as JSON.
    json_
        Print one JSON object: the options, and the plan of the chosen one.
    """
    from isthmus.planner.replan.event import parse_event
    from isthmus.planner.replan.replan import replan as find
    from isthmus.ui.assumed import read_assumptions
    from isthmus.ui.replanned import described, read_horizon

    found = find(
        plans.read_plan(plan),
        load_fleet(fleet),
        load_run(run),
        [parse_event(text) for text in event],
        horizon_s=read_horizon(horizon),
        assume=read_assumptions(assume or []),
        profiles=_profiles(profile or []),
    )
    plans.save(out, found.plan)
    if json_:
        print(msgspec.json.encode(found, enc_hook=float).decode())
    else:
        tables.console().print(described(found))


def _page(found: Plan, run: RunSpec, fleet: FleetSpec) -> str:
    from isthmus.ui.report.plan_page import render

    documents = {"run.yaml": to_yaml(run), "fleet.yaml": to_yaml(fleet)}
    return render(found, documents | {"plan.json": msgspec.json.format(msgspec.json.encode(found)).decode()})


def _profiles(paths: list[Path]) -> dict[str, Profile]:
    """By the chip they were taken on."""
    read = [plans.read_profile(path) for path in paths]
    return {each.chip: each for each in read}
