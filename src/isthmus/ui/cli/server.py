"""`isthmus server`: the parameter server by itself, for sites that are started elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isthmus.agent.prepare import started, write_run
from isthmus.errors import InputError
from isthmus.journal.writer import Journal
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.wire import certs

app = App(name="server", help="Run the parameter server that joins the sites.")

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


@app.command
def start(
    run_dir: Path,
    *,
    run: Path | None = None,
    fleet: Path | None = None,
    bind: str = "",
    set_: Overrides | None = None,
) -> int:
    """Serve a run until its budget is trained or Ctrl-C; the same command again resumes it.

    Makes certificates for the fleet's sites in RUN_DIR/certs: copy RUN_DIR/certs/NAME to site NAME, and
    start it there with `isthmus train --site NAME --server HOST:PORT --certs NAME`, or with `outer.Site` in
    a loop of your own.

    Parameters
    ----------
    run_dir
        Where the server keeps its log, its snapshots and the journal.
    run
        The run.yaml; without it what was given before, or all defaults.
    fleet
        The fleet.yaml; it names the sites.
    bind
        host:port to listen on; by default what the fleet file says, loopback if it says nothing.
    set_
        Override one field, such as outer.inner_steps=20; may be given again.
    """
    from isthmus.outer.server import serve

    place = RunDir(run_dir)
    for_run, for_fleet = split_overrides(set_ or [])
    spec = load_run(run or _before(place.run_yaml), for_run)
    fleet_spec = load_fleet(fleet or _before(place.fleet_yaml), for_fleet)
    bind = bind or fleet_spec.server.bind
    plan = make_plan(fleet_spec, spec)
    write_run(place, spec, fleet_spec, plan, hosts=[bind.rpartition(":")[0].strip("[]")])
    with Journal(place.path, "launcher") as journal:
        journal.emit(started(spec, plan))
    print(f"serving {', '.join(fleet_spec.sites)}; certificates in {place.certs}", file=sys.stderr)
    print(f"server ended: {serve(place, bind)}", file=sys.stderr)
    return 0


@app.command
def promote(run_dir: Path, *, bind: str) -> int:
    """Serve a run from a copy of its server's folder, in a new epoch, when the server itself is lost.

    Where a run has three sites or more and a standby, the sites decide this by vote. With two, a person
    does: make sure that the old server is gone. Should it come back, sites that have heard of the new epoch
    refuse it.

    Parameters
    ----------
    run_dir
        The folder of the lost server, or a copy of it (rsync, a shared disk, a snapshot of the volume).
    bind
        host:port to listen on; start the sites with it, or give it to them beforehand as a second --server.
    """
    from isthmus.outer.server import serve

    place = RunDir.existing(run_dir)
    if not certs.site_names(place.certs):
        raise InputError(
            "the copy has no certificates", where=str(place.certs), hint="copy the whole run folder"
        )
    print(f"server ended: {serve(place, bind)}", file=sys.stderr)
    return 0


def _before(path: Path) -> Path | None:
    return path if path.exists() else None
