"""`isthmus node`: this machine as one of a site's nodes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from isthmus.agent.prepare import write_run
from isthmus.agent.serve_node import NodeOptions
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run, split_overrides
from isthmus.wire.handshake import parse_address
from isthmus.wire.tls import NodeTls

Overrides = Annotated[list[str], Parameter(name="--set", allow_leading_hyphen=True)]


def node(  # noqa: PLR0913 - each is an option of the command
    *,
    run: Path | None = None,
    fleet: Path,
    site: str,
    join: str,
    certs: Path,
    spare: bool = False,
    name: str = "",
    slots: int = 0,
    address: str = "",
    plan: Path | None = None,
    run_dir: Path | None = None,
    set_: Overrides | None = None,
) -> None:
    """Lend this machine's chips to a site whose first node runs elsewhere, until the site has done its part.

    The first node is started with `isthmus train --listen ADDRESS`, and decides what runs here. A node that
    cannot reach it lets its ranks train on for a minute, then ends them, and goes on dialling.

    Parameters
    ----------
    run
        The run.yaml, the same as on the first node.
    fleet
        The fleet.yaml, the same as on the first node.
    site
        The site this node is part of.
    join
        host:port where the first node listens.
    certs
        Certificates of the fleet, or of this site (see `isthmus certs`).
    spare
        Hold no place until one is needed. The node is checked first (see `isthmus check node`).
    name
        Of this node, unlike that of all others; by default the host's.
    slots
        Ranks it can hold; 0: the chips of the first kind of node in the fleet file.
    address
        As the other nodes reach it; by default the one by which it reaches the first node.
    plan
        What the first node was given with --plan.
    run_dir
        Where this node keeps its part of the run; by default runs/<name>.
    set_
        Override one field, as on the first node; may be given again.
    """
    from isthmus.ui import plans, runner

    parse_address(join, "--join")
    NodeTls.load(certs, site)
    for_run, for_fleet = split_overrides(set_ or [])
    spec, fleet_spec = load_run(run, for_run), load_fleet(fleet, for_fleet)
    work = runner.plan_work(spec, fleet_spec, plans.read_if(plan))
    work.plan.site(site)
    place = RunDir((run_dir or Path("runs") / spec.name).absolute())
    runner.prepare_data(spec)
    write_run(place, spec, fleet_spec, work.plan, hosts=None)
    options = NodeOptions(site, join, certs.absolute(), spare, name, slots, address)
    runner.serve_node(place, options)
