"""`isthmus server`: the parameter server by itself, for sites that are started elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isthmus.agent.prepare import started, write_run
from isthmus.errors import InputError, NotFoundError
from isthmus.journal.writer import Journal
from isthmus.planner.adopt import left_out, plan_for
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.spec.run import RunSpec
from isthmus.wire.certs import site_names

app = App(name="server", help="Run the parameter server that joins the sites.")

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


@app.command
def start(
    run_dir: Path,
    *,
    run: Path | None = None,
    fleet: Path | None = None,
    plan: Path | None = None,
    bind: str = "",
    set_: Overrides | None = None,
) -> int:
    """Serve a run until its budget is trained or Ctrl-C; the same command again resumes it.

    Makes certificates for the fleet's sites in RUN_DIR/certs: copy RUN_DIR/certs/NAME to site NAME, and
    start it there with `isthmus train --site NAME --server HOST:PORT --certs NAME`, or with `outer.Site` in
    a loop of your own. What sites of `isthmus train` have trained is in RUN_DIR/final at the end, if the
    data are prepared on this machine too.

    Parameters
    ----------
    run_dir
        Where the server keeps its log, its snapshots and the journal.
    run
        The run.yaml; without it what was given before, or all defaults.
    fleet
        The fleet.yaml; it names the sites.
    plan
        What `isthmus plan --runnable --out` wrote for this run and fleet; give the sites the same file.
    bind
        host:port to listen on; by default what the fleet file says, loopback if it says nothing.
    set_
        Override one field, such as outer.inner_steps=20; may be given again.
    """
    from isthmus.outer.server import last_address, serve
    from isthmus.ui import plans

    place = RunDir(run_dir)
    for_run, for_fleet = split_overrides(set_ or [])
    spec = load_run(run or _before(place.run_yaml), for_run)
    fleet_spec = load_fleet(fleet or _before(place.fleet_yaml), for_fleet)
    bind = bind or fleet_spec.server.bind
    if not (run or fleet or set_):
        plan = plan or _plan_before(place)
    chosen = plan_for(fleet_spec, spec, plans.read_if(plan))
    write_run(place, spec, fleet_spec, chosen, hosts=[bind.rpartition(":")[0].strip("[]")])
    with Journal(place.path, "launcher") as journal:
        journal.emit(started(spec, chosen))
    if absent := left_out(chosen, fleet_spec):
        print(f"note: the plan leaves out {', '.join(absent)}", file=sys.stderr)
    sites = ", ".join(site.name for site in chosen.sites)
    print(f"serving {sites}; certificates in {place.certs}", file=sys.stderr)
    reason = serve(place, last_address(place) or bind)
    print(f"server ended: {reason}", file=sys.stderr)
    if reason == "budget":
        _save(place, spec)
    return 0


def _save(place: RunDir, spec: RunSpec) -> None:
    """The finished model to RUN_DIR/final, if it can be written here."""
    from isthmus.agent.finish import save_final

    try:
        with Journal(place.path, "launcher") as journal:
            saved = save_final(place, spec, journal)
    except NotFoundError as error:
        print(f"note: no {place.final}; the weights stay in {place.server}: {error}", file=sys.stderr)
    else:
        if saved:
            print(f"the model is in {place.final}", file=sys.stderr)


@app.command
def standby(run_dir: Path, *, primary: str, bind: str, certs: Path | None = None) -> int:
    """Keep a replica of a run's server, and take over when a majority of the sites find the server gone.

    Give its address to the sites as a second --server, or as `server.standby` in their fleet.yaml. From the
    moment it holds the whole log, the server tells nobody what this standby does not have. The same command
    again resumes, as a standby or as the server it has become.

    Parameters
    ----------
    run_dir
        Its own folder, for the replica.
    primary
        host:port of the server.
    bind
        host:port to listen on, now and as the server.
    certs
        Folder with the certificates `server` and `standby`, as the server made them in its RUN_DIR/certs; by
        default RUN_DIR/certs.
    """
    from isthmus.outer.standby_server import stand_by

    place = RunDir(run_dir)
    with Journal(place.path, "standby") as log:
        reason = stand_by(place, primary, bind=bind, certs=certs or place.certs, log=log)
    print(f"standby ended: {reason}", file=sys.stderr)
    return 0


@app.command
def promote(run_dir: Path, *, bind: str, certs: Path | None = None) -> int:
    """Serve a run from a standby's folder or a copy of its server's, in a new epoch, when the server is lost.

    Where a run has a standby, a majority of the sites decide this by vote; where no majority is left, or
    there was no standby, a person does: make sure that the old server is gone, and that no `isthmus server
    standby` runs on this folder. Should the old one come back, sites that have heard of the new epoch send it
    away.

    Parameters
    ----------
    run_dir
        The run folder of a standby or of the lost server, or a copy of it (rsync, a snapshot of the volume).
    bind
        host:port to listen on; start the sites with it, or give it to them beforehand as a second --server.
    certs
        The fleet's certificates; by default RUN_DIR/certs.
    """
    from isthmus.outer.server import serve

    place = RunDir.existing(run_dir)
    folder = certs or place.certs
    if not (site_names(folder) or (folder / "tokens.json").exists()):
        raise InputError(
            "there are no certificates",
            where=str(folder),
            hint="copy the whole run folder, or name another folder with --certs",
        )
    print(f"server ended: {serve(place, bind, certs=folder, by_hand=True)}", file=sys.stderr)
    return 0


def _before(path: Path) -> Path | None:
    return path if path.exists() else None


def _plan_before(place: RunDir) -> Path | None:
    """The plan that was given; not one that was made here, which is made anew."""
    from isthmus.ui import plans

    found = _before(place.plan)
    return found if found and plans.read_plan(found).expected else None
