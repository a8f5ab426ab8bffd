"""A run from the terminal: prepare, launch, show progress, stop on Ctrl-C, end with the summary."""

import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from isthmus.agent.children import Child
from isthmus.agent.finish import save_final
from isthmus.agent.launch import USER_ERRORS, Launch
from isthmus.agent.prepare import is_written, started, write_run
from isthmus.agent.rank import become_rank, check_place, keeper_address, rank_place, wait_until
from isthmus.agent.serve_node import NodeOptions, serve
from isthmus.agent.under import is_one_node, lead, node_of
from isthmus.data.dataset import prepare
from isthmus.data.prepare import Progress as DataProgress
from isthmus.errors import DegradedError, InputError, IsthmusError, NotFoundError
from isthmus.journal.alerts import alert_of
from isthmus.journal.fold import apply, fold
from isthmus.journal.reader import Reader
from isthmus.journal.sinks.webhook import Alerts
from isthmus.journal.view import RunView
from isthmus.planner.adopt import left_out, plan_for
from isthmus.planner.plan import Plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.run import RunSpec
from isthmus.train.export import check_start
from isthmus.ui import tables
from isthmus.wire.handshake import format_address
from isthmus.wire.tls import ClientTls

POLL_S = 0.1
REFRESH_S = 0.5


class Stopping:
    """First Ctrl-C (or SIGTERM): leave in order. Second: at once."""

    def __init__(self) -> None:
        self.asked = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        if self.asked > 1:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Remote:
    """One site of a run whose parameter server is elsewhere."""

    site: str
    servers: list[str]
    certs: Path
    listen: str = ""
    """Where the site's other nodes may join."""


@dataclass(frozen=True)
class Work:
    """What is to be trained, and where."""

    spec: RunSpec
    fleet: FleetSpec
    plan: Plan
    """What is done with it (`plan_work`)."""


def plan_work(spec: RunSpec, fleet: FleetSpec, given: Plan | None = None) -> Work:
    """With the plan that was given, or one that is made here. Its notes go to stderr."""
    plan = plan_for(fleet, spec, given)
    if absent := left_out(plan, fleet):
        print(f"note: the plan leaves out {', '.join(absent)}", file=sys.stderr)
    return Work(spec, fleet, plan)


def run_site(path: Path, work: Work, remote: Remote, environment: dict[str, str]) -> RunView:
    """One site against a server elsewhere. Under torchrun or srun on one node, the first process keeps the
    ranks and the others wait for it; on several nodes each process becomes a rank, where there is a task for
    each chip, or one of the site's nodes, where there is one for each node.
    """
    place, spec, fleet, plan = RunDir(path), work.spec, work.fleet, work.plan
    if remote.site in left_out(plan, fleet):
        raise InputError(
            f"the plan does without site '{remote.site}'",
            where="plan",
            hint="do not start it, or make the plan anew",
        )
    site = plan.site(remote.site)
    ClientTls.load(remote.certs, remote.site)
    _check_start(spec)
    rank = rank_place(environment)
    spec_of_site = fleet.sites.get(site.name)
    if rank and spec_of_site and (keeper := keeper_address(rank, site, spec_of_site, environment)):
        where = format_address(keeper)
        if rank.rank > 0:
            prepare_data(spec)
            write_run(place, spec, fleet, plan, hosts=None)
            serve_node(place, NodeOptions(site.name, where, remote.certs, name=f"node-{rank.rank}"))
            return RunView()
        remote, rank = replace(remote, listen=where), None
    if rank:
        check_place(rank, site)
    if rank and is_one_node(environment, rank) and (node := node_of(environment)):
        views: list[RunView] = []
        code = lead(node, lambda: views.append(run_site(path, work, remote, {})) or 0)
        if not views:
            raise SystemExit(code)
        return views[0]
    if rank and not rank.is_first_of_node:
        wait_until(lambda: is_written(place, spec, fleet, plan), path)
        become_rank(place, site, remote.servers, remote.certs, rank)
    prepare_data(spec)
    write_run(place, spec, fleet, plan, hosts=None)
    if rank:
        become_rank(place, site, remote.servers, remote.certs, rank)
    launch = Launch(
        place,
        plan,
        fleet,
        only_site=site.name,
        servers=remote.servers,
        certs=remote.certs,
        listen=remote.listen,
    )
    return _supervise(launch, spec, Stopping())


def serve_node(place: RunDir, options: NodeOptions) -> None:
    """Help a site whose first node is elsewhere. Raises IsthmusError with the agent's last words."""
    print(f"helping site {options.site} at {options.join}", file=sys.stderr)
    end = serve(place, options)
    if end.exit_code:
        error = IsthmusError(f"the node's agent has ended\n{end.words}", where=str(place.logs))
        error.exit_code = end.exit_code
        raise error


def run(path: Path, work: Work, listen: str = "") -> RunView:
    """Trains to the end of the budget; returns what the journal says of it.

    Raises IsthmusError where no site could finish, DegradedError where only some could. After the first
    Ctrl-C the run is left in a state that the same command resumes from, and KeyboardInterrupt is raised.
    """
    place, spec, fleet, plan = RunDir(path), work.spec, work.fleet, work.plan
    _check_start(spec)
    for warning in plan.warnings:
        print(f"note: {warning}", file=sys.stderr)
    resumed = write_run(place, spec, fleet, plan)
    prepare_data(spec)
    launch = Launch(place, plan, fleet, listen=listen)
    launch.journal.emit(started(spec, plan))
    print(f"{'resuming' if resumed else 'training'} in {path}", file=sys.stderr)
    return _supervise(launch, spec, Stopping())


def _supervise(launch: Launch, spec: RunSpec, stopping: Stopping) -> RunView:
    view = RunView()
    alerts = Alerts(spec.alerts.webhook) if spec.alerts.webhook else None
    try:
        with Live(console=tables.console(stderr=True), auto_refresh=False, transient=True) as live:
            launch.start()
            reader, shown_s = None, 0.0
            while launch.poll():
                if stopping.asked and not launch.stopping:
                    launch.stop()
                reader = reader or _reader(launch)
                for event in reader.poll() if reader else ():
                    view = apply(view, event)
                    if alerts and alert_of(event):
                        alerts.send(event)
                if time.monotonic() - shown_s > REFRESH_S:
                    live.update(tables.status(view, time.time()), refresh=True)
                    shown_s = time.monotonic()
                time.sleep(POLL_S)
        complete = launch.finish()
    finally:
        launch.kill()
    view = fold((reader or Reader(launch.run.path)).poll(), view)
    if view.finished == "budget":
        save_final(launch.run, spec, launch.journal)
    _judge(launch, complete)
    if stopping.asked and view.finished != "budget":
        print("stopped; the same command resumes it", file=sys.stderr)
        raise KeyboardInterrupt
    return view


def _reader(launch: Launch) -> Reader | None:
    """None while nobody has written to the journal."""
    try:
        return Reader(launch.run.path)
    except NotFoundError:
        return None


def _judge(launch: Launch, complete: bool) -> None:
    """Raises what the processes of the failed sites said, with their exit code where it is the same."""
    if complete:
        return
    failed = [site for site in launch.sites if site.state == "failed"]
    dead = [site.dead for site in failed if site.dead]
    kind = DegradedError if len(failed) < len(launch.sites) else IsthmusError
    error = kind(
        "\n".join([f"site {', '.join(site.plan.name for site in failed)} failed", *map(_last_words, dead)]),
        where=str(launch.run.logs),
        hint="mend the cause and run the same command again, it resumes; `isthmus report` tells more",
    )
    codes = {child.exit_code for child in dead}
    if kind is IsthmusError and len(codes) == 1 and (code := codes.pop()) in USER_ERRORS:
        error.exit_code = code
    raise error


def _last_words(child: Child) -> str:
    return f"--- {child.name}\n{child.last_words()}"


def _check_start(spec: RunSpec) -> None:
    if spec.train.init_from:
        check_start(Path(spec.train.init_from).expanduser(), spec.model, spec.data.tokenizer)


def prepare_data(spec: RunSpec) -> None:
    """Tokenizer and shards of the run, with a bar while they are made."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=tables.console(stderr=True), transient=True) as bar:
        task = bar.add_task("data", total=1.0)

        def report(progress: DataProgress) -> None:
            share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
            bar.update(task, description=f"{progress.stage} of {progress.source}", completed=share)

        prepare(spec.data, spec.model.vocab_size, report)
