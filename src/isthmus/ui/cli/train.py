"""`isthmus train`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from isthmus.errors import InputError
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.ui import tables
from isthmus.wire.handshake import parse_address

Servers = Annotated[list[str], Parameter(name="--server")]
Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


def train(  # noqa: PLR0913 - each is an option of the command
    run: Path | None = None,
    *,
    fleet: Path | None = None,
    plan: Path | None = None,
    run_dir: Path | None = None,
    site: str | None = None,
    server: Servers | None = None,
    certs: Path | None = None,
    listen: str = "",
    set_: Overrides | None = None,
) -> None:
    """Train a model as a run.yaml says, on this machine's sites or on one of them.

    Without --site all sites of the fleet start here, with the parameter server; the same command again
    resumes the run. Ctrl-C checkpoints and stops (exit code 130), a second one stops at once.

    With --site this is one site of a larger run. Under torchrun or srun the ranks of that site are as many as
    the launcher's tasks: `torchrun --nproc-per-node 2 --no-python isthmus train run.yaml --fleet fleet.yaml
    --site NAME --server HOST:PORT --certs DIR`, or `srun isthmus train ...` with one task per chip. With one
    task per node (`--nproc-per-node 1`, `--ntasks-per-node 1`) the nodes' agents start the ranks and keep
    them alive.

    Parameters
    ----------
    run
        The run.yaml; without it all defaults.
    fleet
        The fleet.yaml; without it one local site.
    plan
        What `isthmus plan --runnable --out` wrote for this run and fleet; without it every chip of every site
        trains on an even share.
    run_dir
        Where the run lives; by default runs/<name>.
    site
        Start only this site, against a server elsewhere.
    server
        host:port of that server; again for its standby.
    certs
        Certificates of the fleet, or of this site (see `isthmus certs`).
    listen
        host:port for the other nodes of this site, which run `isthmus node`: this node is the first one, and
        its agent keeps the ranks of all. Without, nobody can join.
    set_
        Override one field, such as train.lr=3e-4; may be given again.
    """
    from isthmus.ui import plans, runner

    for_run, for_fleet = split_overrides(set_ or [])
    spec, fleet_spec = load_run(run, for_run), load_fleet(fleet, for_fleet)
    path = run_dir or Path("runs") / spec.name
    if listen:
        parse_address(listen, "--listen")
    if site is None:
        if server or certs:
            raise InputError("--server and --certs belong to one site", hint="add --site NAME")
        view = runner.run(path, runner.plan_work(spec, fleet_spec, plans.read_if(plan)), listen)
        tables.console().print(tables.summary(view))
        return
    if not server or not certs:
        raise InputError(
            f"site '{site}' needs a server and its certificates",
            hint="add --server host:port --certs DIR (made by `isthmus certs init` where the server runs)",
        )
    work = runner.plan_work(spec, fleet_spec, plans.read_if(plan))
    runner.run_site(path, work, runner.Remote(site, server, certs.absolute(), listen), dict(os.environ))
