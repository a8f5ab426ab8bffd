"""`isthmus simulate`."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from cyclopts import Parameter
from msgspec.structs import replace

from isthmus.errors import InputError, StorageError
from isthmus.planner.failures.assumptions import Assumptions
from isthmus.planner.failures.derive import derive_job
from isthmus.planner.failures.job import Job
from isthmus.planner.failures.sweep import Horizon, advise, repeat, sweep
from isthmus.planner.make import make_plan
from isthmus.planner.plan import Plan
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.spec.run import RunSpec
from isthmus.ui.assumed import read_assumptions
from isthmus.ui.plans import read_plan
from isthmus.ui.simulated import Simulated, chart, describe

Value = TypeVar("Value", int, float)
Values = Annotated[list[str] | None, Parameter(negative="")]


def simulate(  # noqa: PLR0913 (one for each option)
    *,
    plan: Path | None = None,
    fleet: Path | None = None,
    run: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", allow_leading_hyphen=True)] = None,
    step_s: Values = None,
    spares: Values = None,
    assume: Values = None,
    shrink: bool = False,
    days: float = 30.0,
    seed: int = 0,
    repeat: int = 1,
    sweep: Literal["mtbf", "checkpoint", "spares"] | None = None,
    out: Path | None = None,
    json_: bool = False,
) -> None:
    """Replay failures and slow links over days on a plan, and tell its goodput.

    Goodput: tokens that stayed, over those of a run that trains all the time. Prints where the time went,
    the best checkpoint interval and the spares needed. docs/simulate.md tells what is modelled.

    Parameters
    ----------
    plan
        A plan.json, as a run's folder has it; without it the one that `isthmus train` would make.
    fleet
        The fleet.yaml; without it one local site.
    run
        The run.yaml; without it all defaults.
    set_
        Override one field, such as train.checkpoint_every=10min; may be given again.
    step_s
        Seconds of an inner step, where the plan does not say: 2.5, or of one site: jinan=2.5; may be given
        again.
    spares
        Idle nodes at each site besides those that the plan leaves unused: 2, or at one site: jinan=2; may be
        given again.
    assume
        What no file says, such as mtbf=90d, repair=4h, slow_per_day=2; may be given again.
    shrink
        Without a spare a site goes on with fewer replicas. isthmus itself does not do that yet.
    days
        How long.
    seed
        Of the failures.
    repeat
        So many replays, each with other failures.
    sweep
        Goodput against this.
    out
        Write a picture there, as SVG: of the sweep, or of the outages.
    json_
        Print one JSON object.
    """
    job, assumed = _job((plan, fleet, run), set_ or [], (step_s or [], spares or [], assume or []), shrink)
    found = _run(job, assumed, Horizon(days=days, seed=seed, repeat=repeat), sweep)
    if out:
        _write(out, chart(found))
    print(msgspec.json.encode(found, enc_hook=float).decode() if json_ else describe(found))


def _run(job: Job, assumed: Assumptions, horizon: Horizon, swept: Any) -> Simulated:
    return Simulated(
        job=job,
        assumed=assumed,
        horizon=horizon,
        outcomes=repeat(job, horizon),
        advice=advise(job, horizon),
        quantity=swept,
        points=sweep(job, swept, horizon) if swept else [],
    )


def _job(
    paths: tuple[Path | None, Path | None, Path | None],
    overrides: Sequence[str],
    options: tuple[Sequence[str], Sequence[str], Sequence[str]],
    shrink: bool,
) -> tuple[Job, Assumptions]:
    plan_path, fleet_path, run_path = paths
    of_run, of_fleet = split_overrides(overrides)
    run, fleet = load_run(run_path, of_run), load_fleet(fleet_path, of_fleet)
    step_s = _by_site("--step-s", options[0], fleet, float)
    spares = _by_site("--spares", options[1], fleet, int)
    assumed = read_assumptions(options[2])
    plan = read_plan(plan_path) if plan_path else _made(fleet, run, step_s)
    job = derive_job(plan, fleet, run, assume=assumed, step_s=step_s, spares=spares)
    return replace(job, shrink=shrink), assumed


def _made(fleet: FleetSpec, run: RunSpec, step_s: dict[str, float]) -> Plan:
    if 0 in step_s.values():
        raise InputError("a step of no time", where="--step-s", hint="give seconds above 0")
    return make_plan(fleet, run, step_s)


def _by_site(
    option: str, texts: Sequence[str], fleet: FleetSpec, kind: Callable[[str], Value]
) -> dict[str, Value]:
    """'2' holds for every site, 'jinan=2' for one; later ones win."""
    found: dict[str, Value] = {}
    for text in texts:
        site, equals, value = text.rpartition("=")
        if equals and site not in fleet.sites:
            hint = f"the sites are {', '.join(fleet.sites)}"
            raise InputError(f"there is no site '{site}'", where=f"{option} {text}", hint=hint)
        try:
            number = kind(value)
        except ValueError:
            hint = f"write for example {option} 2, or {option} {next(iter(fleet.sites))}=2"
            raise InputError(f"'{value}' is not a number", where=f"{option} {text}", hint=hint) from None
        if not 0 <= number < math.inf:
            hint = "0 or more, and finite"
            raise InputError(f"{value} is negative or no number", where=f"{option} {text}", hint=hint)
        found |= dict.fromkeys([site] if equals else fleet.sites, number)
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise StorageError(
            f"cannot write the picture: {error.strerror}", where=str(path), hint="name another place"
        ) from error
