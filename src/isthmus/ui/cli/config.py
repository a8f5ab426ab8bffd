"""`isthmus config`: what the two files say once read, whether they fit, and their schemas."""

import json
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from isthmus.planner.make import make_plan
from isthmus.planner.plan import Plan
from isthmus.spec.dump import as_yaml, changed, plain
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.spec.run import RunSpec
from isthmus.spec.schema import fleet_schema, run_schema
from isthmus.units import Bytes, Count, Seconds

app = App(name="config", help="Show and check fleet and run files.")

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


@app.command
def show(
    *,
    run: Path | None = None,
    fleet: Path | None = None,
    set_: Overrides | None = None,
    resolved: bool = False,
    json_: bool = False,
) -> None:
    """Print what the files say: what differs from the defaults, or every field.

    Parameters
    ----------
    run
        The run.yaml; without it all defaults.
    fleet
        The fleet.yaml; without it one local site.
    set_
        Override one field, such as train.lr=3e-4; may be given again.
    resolved
        Every field with its value, presets and short forms written out.
    json_
        Print one JSON object with `run` and `fleet`.
    """
    run_spec, fleet_spec = _load(run, fleet, set_)
    shown = plain if resolved else changed
    if json_:
        print(json.dumps({"run": shown(run_spec), "fleet": shown(fleet_spec)}, ensure_ascii=False))
        return
    for title, path, spec in (("run", run, run_spec), ("fleet", fleet, fleet_spec)):
        print(f"# {title}: {path or 'defaults'}")
        fields = shown(spec)
        print(as_yaml(fields) if fields else "# all as by default")


@app.command
def check(
    *, run: Path | None = None, fleet: Path | None = None, set_: Overrides | None = None, json_: bool = False
) -> None:
    """Check that the run fits the fleet, and print what is derived from both.

    Parameters
    ----------
    run
        The run.yaml; without it all defaults.
    fleet
        The fleet.yaml; without it one local site.
    set_
        Override one field, such as train.lr=3e-4; may be given again.
    json_
        Print the plan as one JSON object.
    """
    run_spec, fleet_spec = _load(run, fleet, set_)
    plan = make_plan(fleet_spec, run_spec)
    print(json.dumps(msgspec.to_builtins(plan)) if json_ else _describe(plan))


@app.command
def schema(file: Literal["run", "fleet"]) -> None:
    """Print the JSON schema of run.yaml or fleet.yaml, for editors.

    Parameters
    ----------
    file
        Which of the two.
    """
    print(json.dumps(run_schema() if file == "run" else fleet_schema(), indent=2, ensure_ascii=False))


def _load(run: Path | None, fleet: Path | None, overrides: list[str] | None) -> tuple[RunSpec, FleetSpec]:
    of_run, of_fleet = split_overrides(overrides or [])
    return load_run(run, of_run), load_fleet(fleet, of_fleet)


def _describe(plan: Plan) -> str:
    """The plan as a table of sites, then the reasons and warnings."""
    lines = [
        f"{Count(plan.num_params)} parameters, {Count(plan.active_params)} active per token; "
        f"{plan.total_steps} inner steps of {plan.batch_size} sequences, a push every {plan.inner_steps}",
        "",
        f"{'site':<16} {'ranks':>5} {'share':>6} {'per rank':>12} {'up':>9} {'down':>9} {'on link':>9}",
    ]
    for site in plan.sites:
        batch = f"{site.accumulation} x {site.micro_batch}"
        traffic = f"{Bytes(site.bytes_up)!s:>9} {Bytes(site.bytes_down)!s:>9} {Seconds(site.transfer_s)!s:>9}"
        lines.append(f"{site.name:<16} {site.num_ranks:>5} {site.share:>6.0%} {batch:>12} {traffic}")
    reasons = [f"- {reason}" for reason in plan.reasons]
    warnings = [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join([*lines, "", *reasons, *warnings])
