"""Keeps the ranks of one site alive: `python -m isthmus.agent --run-dir RUN --site NAME`.

With `--listen` the site's other nodes may join, with `--join` this is one of them. The exit code is 0 when
the site has done its part, and that of the error otherwise. A signal asks the ranks to save and leave,
SIGQUIT ends them at once; killed, it leaves them training, and the next one takes them over.
"""

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.agent.brood import Brood
from isthmus.agent.checks import Checker
from isthmus.agent.diagnoser import Diagnoser
from isthmus.agent.drills import Drills
from isthmus.agent.hands import Hands
from isthmus.agent.home import make_home, read_cpus
from isthmus.agent.keeper import NODE, Keeper, Site
from isthmus.agent.live import live_folder, remove, sole
from isthmus.agent.node import Joining, Node
from isthmus.agent.nodes import Nodes, Terms, listen_for_nodes
from isthmus.agent.stacks import Stacks
from isthmus.agent.turning import Ask, live_through
from isthmus.agent.watch import Watcher
from isthmus.errors import CheckFailedError, InputError, IsthmusError
from isthmus.heal.actions import End
from isthmus.heal.policy import Policy
from isthmus.journal.writer import Journal
from isthmus.planner.plan import Plan, SitePlan
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run
from isthmus.wire.handshake import parse_address
from isthmus.wire.probe import run_facts
from isthmus.wire.tls import NodeTls

ADDRESS = "agent.json"
ANY = ("0.0.0.0", "::")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        run = RunDir.existing(options.run_dir)
        end = join(run, options) if options.join else keep(run, options)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if end.outcome == "failed":
        print(end.traceback.rstrip() or f"error: {end.reason}", file=sys.stderr)
    return end.exit_code


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="isthmus.agent")
    made.add_argument("--run-dir", type=Path, required=True)
    made.add_argument("--site", required=True)
    made.add_argument("--line", default="", help="socket of the site's client")
    made.add_argument("--cpus", default="", help="CPUs of each rank of this node: 0,1;2,3")
    made.add_argument("--slots", type=int, default=0, help="ranks this node can hold")
    made.add_argument("--policy", default="{}", help="what differs from heal.policy, as JSON")
    made.add_argument("--certs", type=Path, help="the fleet's certificates, or this site's")
    made.add_argument("--address", default="", help="of this node, as the others reach it")
    made.add_argument("--listen", default="", help="host:port for the site's other nodes")
    made.add_argument("--join", default="", help="host:port of the site's keeper")
    made.add_argument("--node", default="", help="name of this node, by default the host's")
    made.add_argument("--spare", action="store_true", help="hold no place until one is needed")
    return made


def keep(run: RunDir, options: argparse.Namespace) -> End:
    """Until the site is done, or given up. Raises StorageError where another agent keeps it."""
    plan = site_plan(run, options.site)
    with sole(run.site(plan.name)):
        return _keep(run, plan, options)


def _keep(run: RunDir, plan: SitePlan, options: argparse.Namespace) -> End:
    folder, size = run.site(plan.name), plan.num_ranks
    policy = read_policy(options.policy)
    slots = options.slots or (slots_of(run, plan) if options.listen else size)
    host = parse_address(options.listen)[0] if options.listen else "127.0.0.1"
    if host in ANY and not options.address:
        raise InputError("this node's own address is not known", hint="add --address to --listen")
    live = live_folder(folder / ADDRESS)
    home = make_home(run, plan.name, NODE, live, read_cpus(options.cpus, slots), lambda: options.line)
    site = Site(plan.name, size, folder, slots, policy, options.address or host)
    with Journal(run.path, f"agent/{plan.name}") as journal:
        keeper = Keeper(
            site,
            journal,
            Hands(home, Brood(run.logs / f"nursery-{plan.name}.log")),
            Watcher(live, folder, plan.chips),
            Stacks(run.logs, plan.name),
            Drills.open(run, plan.name, live, size),
            Diagnoser(),
            Checker(plan.chips[0], slots, folder, folder / f"figures-{NODE}.json"),
            open_nodes(run, plan, options, policy, live) if options.listen else None,
        )
        end = live_through(Ask(keeper))
    site.record.unlink(missing_ok=True)
    remove(live, folder / ADDRESS)
    return end


def open_nodes(run: RunDir, plan: SitePlan, options: argparse.Namespace, policy: Policy, live: Path) -> Nodes:
    tls = NodeTls.load(options.certs or run.certs, plan.name)
    terms = Terms(facts_of(run, plan), policy.lease_s, bool(options.line), NODE)
    return Nodes(tls, listen_for_nodes(parse_address(options.listen)), terms, live)


def join(run: RunDir, options: argparse.Namespace) -> End:
    """Serve another node's keeper until the site is over. Raises CheckFailedError for an unfit spare."""
    plan, name = site_plan(run, options.site), options.node or socket.gethostname()
    folder, slots = run.site(plan.name), options.slots or slots_of(run, plan)
    joining = Joining(
        node=name,
        keeper=parse_address(options.join),
        tls=NodeTls.load(options.certs or run.certs, plan.name),
        slots=slots,
        spare=options.spare,
        facts=facts_of(run, plan),
        address=options.address,
    )
    folder.mkdir(parents=True, exist_ok=True)
    checker = Checker(plan.chips[0], slots, folder, folder / f"figures-{name}.json")
    report = checker.run() if options.spare else None
    if report and not report.ok:
        raise CheckFailedError(f"this node is not fit to join: {report.text}", where=name)

    address = folder / f"agent-{name}.json"
    live = live_folder(address)

    def line() -> str:
        return options.line or (str(live / "no-client") if node.has_client else "")

    home = make_home(run, plan.name, name, live, read_cpus(options.cpus, slots), line)
    node = Node(joining, Hands(home, Brood(run.logs / f"nursery-{plan.name}-{name}.log")), checker, report)
    end = live_through(Ask(node))
    remove(live, address)
    return end


def site_plan(run: RunDir, name: str) -> SitePlan:
    return msgspec.json.decode(run.plan.read_bytes(), type=Plan).site(name)


def slots_of(run: RunDir, plan: SitePlan) -> int:
    """Chips of a node, as the fleet has it: of its first kind."""
    spec = load_fleet(run.fleet_yaml).sites[plan.name]
    return min(sum(spec.nodes[0].chips.values()), plan.num_ranks)


def facts_of(run: RunDir, plan: SitePlan) -> dict[str, str]:
    return {**run_facts(load_run(run.run_yaml)), "ranks": str(plan.num_ranks)}


def read_policy(text: str) -> Policy:
    try:
        return msgspec.json.decode(text, type=Policy)
    except msgspec.MsgspecError as error:
        raise InputError(f"this is no policy: {error}", where="--policy") from None


if __name__ == "__main__":
    sys.exit(main())
