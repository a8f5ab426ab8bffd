"""What a run needs before its processes start: its folder with specs, plan and certificates."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus import __version__
from isthmus.errors import InputError
from isthmus.journal import events
from isthmus.journal.store import DiskStore
from isthmus.planner.make import as_planned
from isthmus.planner.plan import Plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.load import load_run, to_yaml
from isthmus.spec.run import RunSpec
from isthmus.wire import certs


def write_run(
    run: RunDir,
    spec: RunSpec,
    fleet: FleetSpec,
    plan: Plan,
    hosts: Sequence[str] | None = ("127.0.0.1", "localhost"),
) -> bool:
    """Writes specs, plan and (for loopback) certificates. True if the folder holds an unfinished run to
    resume.

    The fleet, the budget and the schedule may differ from the run's earlier ones; model and data may not.
    Raises InputError for another model or data, and for a run that has finished.
    """
    resumed = run.run_yaml.exists()
    if resumed:
        _check_same(run, load_run(run.run_yaml), spec)
    store = DiskStore()
    store.make_folder(run.path)
    for path, text in _texts(run, spec, fleet, plan).items():
        store.write_atomic(path, text)
    if hosts is not None:
        certs.init(run.certs, [*fleet.sites, certs.STANDBY], list(hosts), datetime.datetime.now(datetime.UTC))
    return resumed


def is_written(run: RunDir, spec: RunSpec, fleet: FleetSpec, plan: Plan) -> bool:
    """Whether `write_run` has done its work, here or in another process."""
    texts = _texts(run, spec, fleet, plan)
    return all(path.exists() and path.read_bytes() == text for path, text in texts.items())


def _texts(run: RunDir, spec: RunSpec, fleet: FleetSpec, plan: Plan) -> dict[Path, bytes]:
    return {
        run.run_yaml: to_yaml(as_planned(spec, plan)).encode(),
        run.fleet_yaml: to_yaml(fleet).encode(),
        run.plan: msgspec.json.format(msgspec.json.encode(plan)),
    }


def started(spec: RunSpec, plan: Plan) -> events.RunStarted:
    """What the journal is told at the start: the run's name, sites and budget."""
    return events.RunStarted(
        name=spec.name,
        sites=[site.name for site in plan.sites],
        num_params=plan.num_params,
        token_budget=plan.total_samples * spec.data.seq_len,
        seq_len=spec.data.seq_len,
        code_version=__version__,
    )


def _check_same(run: RunDir, old: RunSpec, new: RunSpec) -> None:
    if run.final.exists():
        raise InputError(
            "this run has finished",
            where=str(run.path),
            hint="choose another folder with --run-dir, or remove it",
        )
    for part in ("model", "data"):
        if getattr(old, part) != getattr(new, part):
            raise InputError(
                f"the run in this folder has another {part}",
                where=str(run.run_yaml),
                hint=f"use the same `{part}` to resume it, or another folder with --run-dir",
            )
