"""Starts a run's processes on this machine, keeps them alive, and ends them in order.

One parameter server, its standby where the fleet names one on this machine, and for each site relays where
its link is to be emulated, a client, and its ranks:

    server <- [relay] <- client <-shared memory-> rank 0 <-gloo/nccl-> rank 1 ...
                                          (an agent keeps them alive)

A dead server, client or agent is started again, unless a standby has taken over meanwhile; the agent keeps
its site's ranks alive. A site that cannot be kept alive is given up, the others train on.
"""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isthmus import leash
from isthmus.agent.children import Child, wait_all
from isthmus.agent.live import sole
from isthmus.errors import InputError, IsthmusError, SupersededError, UnreachableError
from isthmus.journal import events
from isthmus.journal.writer import Journal
from isthmus.outer.bridge import line_folder
from isthmus.planner.plan import Plan, SitePlan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, LinkSpec

SERVICE_RESTARTS = 20
RESTART_PAUSE_S = 0.5
LEAVE_TIMEOUT_S = 60.0
QUIT_TIMEOUT_S = 3.0
LATE_S = 3.0
"""Between the server's end and that of the sites' clients, which have left before it."""
USER_ERRORS = (2, 3, 5, 6)
"""Exit codes that a restart would only repeat (see errors.py). Not 4: a rank cannot reach peers that died."""


@dataclass
class LocalSite:
    """The processes of one site on this machine."""

    plan: SitePlan
    relays: list[Child]
    client: Child
    agent: Child
    state: str = "running"
    """'running', 'done' or 'failed'."""
    dead: Child | None = None
    """The process for whose sake the site was given up."""

    @property
    def children(self) -> list[Child]:
        return [*self.relays, self.client, self.agent]


@dataclass
class Launch:
    """A run's processes. `start`, then `poll` until it returns False, then `finish`."""

    run: RunDir
    plan: Plan
    fleet: FleetSpec
    only_site: str | None = None
    """Start this site alone, against a server elsewhere."""
    servers: list[str] = field(default_factory=list)
    """Addresses of the server and its standby, where they run elsewhere."""
    certs: Path = Path()
    listen: str = ""
    """Where the other nodes of the only site may join."""
    server: Child | None = None
    standby: Child | None = None
    sites: list[LocalSite] = field(default_factory=list)
    stopping: bool = False
    _over_s: float = 0.0
    _cpus_each: int = 0
    """CPUs of each rank's own; 0: there are fewer than ranks, and they share."""

    def __post_init__(self) -> None:
        if self.listen and self.only_site is None and len(self.plan.sites) > 1:
            raise InputError(
                "only one site can have nodes elsewhere", where="--listen", hint="add --site, or leave it out"
            )
        self.certs = self.certs if self.servers else self.run.certs
        self.journal = Journal(self.run.path, "launcher")
        self._folder = line_folder()

    def start(self) -> None:
        standby = self.fleet.server.standby
        if not self.servers:
            self._start_server()
            if standby and is_loopback(standby):
                self._start_standby(standby)
        if standby and standby not in self.servers:
            self.servers.append(standby)
        chosen = [site for site in self.plan.sites if self.only_site in (None, site.name)]
        usable, ranks = sorted(os.sched_getaffinity(0)), [site.num_ranks for site in chosen]
        self._cpus_each = len(usable) // max(1, sum(ranks))
        cpus = split_cpus(usable, ranks)
        for site, site_cpus in zip(chosen, cpus, strict=True):
            self._start_site(site, site_cpus)

    def poll(self) -> bool:
        """Looks after every process once. False when all sites have ended."""
        for child, kind in ((self.server, "server_died"), (self.standby, "standby_died")):
            if child and child.exit_code == SupersededError.exit_code:
                self._superseded(child)
            elif child and child.exit_code not in (None, 0):
                self._revive_service(child, kind)
            elif child and child.exit_code == 0 and not self.stopping:
                self._run_is_over()
        for site in self.sites:
            if site.state == "running":
                self._look_after(site)
        return any(site.state == "running" for site in self.sites)

    def stop(self) -> None:
        """Asks every rank to push what it has and leave (first Ctrl-C)."""
        self.stopping = True
        for site in self.sites:
            site.agent.signal(signal.SIGTERM)

    def finish(self) -> bool:
        """Ends clients, relays, the server and its standby in this order. True if every site did its part."""
        clients = [site.client for site in self.sites]
        late = wait_all(clients, LEAVE_TIMEOUT_S)
        for child in late:
            child.kill()
        for child in self._services:
            child.signal(signal.SIGTERM)
            wait_all([child], LEAVE_TIMEOUT_S)
        self.kill()
        return all(site.state == "done" for site in self.sites)

    def kill(self) -> None:
        """Ends everything at once (second Ctrl-C)."""
        agents = [site.agent for site in self.sites]
        for agent in agents:
            agent.signal(signal.SIGQUIT)  # it ends its ranks, which are no children of ours
        wait_all(agents, QUIT_TIMEOUT_S)
        for site in self.sites:
            for child in site.children:
                child.kill()
        for child in self._services:
            child.kill()
        self.journal.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _services(self) -> list[Child]:
        return [child for child in (self.server, self.standby) if child]

    def _start_server(self) -> None:
        if self.run.server_address.exists():
            self.run.server_address.replace(self.run.last_address)
        self.server = self._python("server", "isthmus.outer.server", ["--run-dir", str(self.run.path)])
        self.server.start()
        self.servers = [wait_for_address(self.run, self.server)]

    def _start_standby(self, bind: str) -> None:
        place = self.run.standby
        if bind.endswith(":0"):
            raise InputError(
                "the standby needs a port of its own", where="server.standby", hint="write 127.0.0.1:7001"
            )
        place.server_address.unlink(missing_ok=True)
        places = ["--run-dir", str(place.path), "--journal", str(self.run.path), "--certs", str(self.certs)]
        self.standby = self._python(
            "standby",
            "isthmus.outer.standby_server",
            [*places, "--primary", self.servers[0], "--bind", bind],
        )
        self.standby.start()
        wait_for_address(place, self.standby)

    def _superseded(self, child: Child) -> None:
        """Its place is taken: the run goes on with the other one."""
        self._fault(child.name, "superseded", child.last_words(1))
        if child is self.server:
            self.server = None
        else:
            self.standby = None

    def _start_site(self, site: SitePlan, cpus: list[frozenset[int]]) -> None:
        """Raises StorageError where another launch keeps this site alive: two clients would fight for it."""
        with sole(self.run.site(site.name)):
            pass
        addresses, relays = self.servers, []
        if self.fleet.sites[site.name].link.shape:
            pairs = [self._start_relay(site.name, *place) for place in enumerate(addresses)]
            relays, addresses = [relay for relay, _ in pairs], [address for _, address in pairs]
        line = self._folder / f"{len(self.sites)}.sock"
        client = self._python(
            f"client-{site.name}",
            "isthmus.outer.client",
            client_arguments(self.run, site, addresses, self.certs, line),
        )
        arguments = agent_arguments(self.run, site, line, cpus)
        if self.listen:  # not all of the ranks are here
            places = ["--listen", self.listen, "--certs", str(self.certs)]
            arguments = [*agent_arguments(self.run, site, line, []), *places]
        agent = self._python(f"agent-{site.name}", "isthmus.agent", arguments)
        client.start()
        agent.start()
        self.sites.append(LocalSite(site, relays, client, agent))

    def _start_relay(self, site: str, index: int, address: str) -> tuple[Child, str]:
        link = self.fleet.sites[site].link
        port = free_port()
        relay = self._python(
            f"relay-{site}",
            "isthmus.wire.shaper",
            [
                *("--listen", f"127.0.0.1:{port}", "--target", address, *shape_arguments(link)),
                *("--orders", str(self.run.relay_orders(site, index))),
            ],
        )
        relay.leashed = True
        relay.start()
        return relay, f"127.0.0.1:{port}"

    def _look_after(self, site: LocalSite) -> None:
        for child in (site.client, *site.relays):
            if child.exit_code not in (None, 0) and site.agent.alive:
                kind = "client_died" if child is site.client else "relay_died"
                if not self._revive(child, kind):
                    self._give_up(site, child)
                    return
        code = site.agent.exit_code
        if code == 0:
            site.state = "done"
        elif code is not None and (code > 0 or not self._revive(site.agent, "agent_died")):
            self._give_up(site, site.agent)  # what it says itself, it has tried to mend

    def _run_is_over(self) -> None:
        """The server ends when all members have left. A client that is still there came too late to join."""
        self._over_s = self._over_s or time.monotonic()
        if time.monotonic() < self._over_s + LATE_S:
            return
        for site in self.sites:
            if site.state == "running" and site.client.alive:
                text = f"site {site.plan.name} was not ready before the run was over"
                self.journal.emit(events.Note(level="warning", text=text))
                for child in site.children:
                    child.kill()
                site.state = "done"

    def _give_up(self, site: LocalSite, dead: Child) -> None:
        """The others train on."""
        site.dead = dead
        site.state = "failed"
        site.agent.signal(signal.SIGTERM)
        site.client.signal(signal.SIGTERM)

    def _revive_service(self, child: Child, kind: str) -> None:
        """Raises IsthmusError if it will not live."""
        if not self._revive(child, kind):
            raise IsthmusError(
                f"{child.name} cannot be kept alive (exit code {child.exit_code})\n{child.last_words()}",
                where=str(child.log),
                hint="the end of its log is above; mend the cause and run the same command again, it resumes",
            )

    def _revive(self, child: Child, kind: str) -> bool:
        """False if it has died for a cause that stays, or too often."""
        self._fault(child.name, kind, f"exit code {child.exit_code}: {child.last_words(1)}")
        if child.exit_code in USER_ERRORS:
            return False
        time.sleep(RESTART_PAUSE_S)
        if not child.restart():
            return False
        self.journal.emit(events.Recovered(subject=child.name, kind=kind, after_s=RESTART_PAUSE_S))
        return True

    def _fault(self, subject: str, kind: str, detail: str) -> None:
        self.journal.emit(events.Fault(subject=subject, kind=kind, detail=detail))

    def _python(
        self, name: str, module: str, arguments: list[str], affinity: frozenset[int] = frozenset()
    ) -> Child:
        shared = len(affinity) > 1 and self._cpus_each == 0
        return Child(
            name=name,
            argv=leash.command(module, arguments),
            log=self.run.logs / f"{name}.log",
            env={"OMP_NUM_THREADS": "1" if shared else str(max(1, len(affinity)))},
            affinity=affinity,
            max_restarts=SERVICE_RESTARTS,
        )


def start_ranks(ranks: list[Child]) -> None:
    """Starts a site's ranks as torchrun would, with a rendezvous port of their own."""
    port = free_port()
    for index, rank in enumerate(ranks):
        rank.env = {
            **rank.env,
            "RANK": str(index),
            "LOCAL_RANK": str(index),
            "WORLD_SIZE": str(len(ranks)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        rank.start()


def agent_arguments(run: RunDir, site: SitePlan, line: Path, cpus: Sequence[frozenset[int]]) -> list[str]:
    """Command line of `isthmus.agent`."""
    shares = ";".join(",".join(map(str, sorted(share))) for share in cpus)
    return ["--run-dir", str(run.path), "--site", site.name, "--line", str(line), "--cpus", shares]


def split_cpus(cpus: list[int], ranks_per_site: list[int]) -> list[list[frozenset[int]]]:
    """Which CPUs each rank of each site runs on: disjoint and equal in number where there are enough, else
    all.
    """
    total = sum(ranks_per_site)
    each = len(cpus) // total if total else 0
    free = iter(cpus)
    share: Callable[[], frozenset[int]] = lambda: (  # noqa: E731
        frozenset(next(free) for _ in range(each)) if each else frozenset(cpus)
    )
    return [[share() for _ in range(count)] for count in ranks_per_site]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_address(run: RunDir, server: Child, timeout_s: float = 60.0) -> str:
    """The address the server wrote once it listened. Raises UnreachableError with its last words."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.alive:
        if run.server_address.exists():
            return run.server_address.read_text().strip()
        time.sleep(0.02)
    raise UnreachableError(
        f"the parameter server did not start\n{server.last_words()}",
        where=str(server.log),
        hint="the end of its log is above",
    )


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def client_arguments(
    run: RunDir, site: SitePlan, servers: Sequence[str], certs: Path, line: Path
) -> list[str]:
    """Command line of `isthmus.outer.client`."""
    places = ["--run-dir", str(run.path), "--site", site.name, "--certs", str(certs), "--line", str(line)]
    named = [word for server in servers for word in ("--server", server)]
    return [*places, *named, "--streams", str(site.streams)]


def shape_arguments(link: LinkSpec) -> list[str]:
    return ["--rate", f"{float(link.bandwidth)} bps", "--delay", f"{float(link.delay) / 2} s"]
