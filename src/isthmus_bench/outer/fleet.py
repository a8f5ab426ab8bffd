"""A fleet on this machine: a server and its sites, each behind a link and under a CPU quota of its own.

The client and the rank of a site share its quota; the server stands outside. TLS is on, as always. The
quotas are put on once every site trains, so that starting up costs no more than it must.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from isthmus import leash
from isthmus.agent.children import Child
from isthmus.agent.launch import client_arguments, free_port, start_ranks, wait_for_address
from isthmus.agent.prepare import write_run
from isthmus.data.dataset import prepare
from isthmus.errors import IsthmusError
from isthmus.journal.events import AnyEvent, StepDone
from isthmus.journal.reader import Reader
from isthmus.journal.writer import FOLDER
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, LinkSpec, SiteSpec
from isthmus.spec.run import RunSpec
from isthmus.units import Bandwidth, Seconds
from isthmus_bench.netns import LinkShape, Star, star
from isthmus_bench.outer.measure import Span
from isthmus_bench.quota import Quota, can_use_quotas, quota

POLL_S = 0.1
START_S = 180.0
FIRST_STEPS = 3
"""Steps of every site before the quotas are put on."""

Until = Callable[[Sequence[AnyEvent]], bool]


class Link(NamedTuple):
    bandwidth_bps: float = 100e6
    round_trip_s: float = 0.030

    @property
    def shape(self) -> LinkShape:
        return LinkShape(self.bandwidth_bps, self.round_trip_s / 2)

    @property
    def spec(self) -> LinkSpec:
        return LinkSpec(bandwidth=Bandwidth(self.bandwidth_bps), delay=Seconds(self.round_trip_s))


DISTANT = Link()


@dataclass
class Place:
    """A site's processes and what they are bound to."""

    name: str
    rank: Child
    client: Child | None = None
    quota: Quota | None = None

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.client, self.rank) if child]


@dataclass
class Run(AbstractContextManager["Run"]):
    """Processes that train, and the journals they write. Everything ends with the block.

    Args:
        cpus: site -> cores it may use.
    """

    spec: RunSpec
    cpus: Mapping[str, float]
    events: list[AnyEvent] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    others: list[Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        self.stack.__enter__()
        try:
            self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-bench-")))
            self.stack.callback(self.kill)
            prepare(self.spec.data, self.spec.model.vocab_size)
            self.readers: dict[Path, Reader] = {}
            self.start()
            self.wait(self._all_train, START_S)
            self._bind()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def start(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        for child in (*(child for place in self.places for child in place.children), *self.others):
            child.kill()

    @property
    def run_dirs(self) -> list[Path]:
        raise NotImplementedError

    def poll(self) -> list[AnyEvent]:
        """All events so far, in the order of their time. Raises IsthmusError if a site's process failed."""
        for path in self.run_dirs:
            if path not in self.readers and any((path / FOLDER).glob("*")):
                self.readers[path] = Reader(path)
        fresh = [event for reader in self.readers.values() for event in reader.poll()]
        if fresh:
            self.events = sorted([*self.events, *fresh], key=lambda event: event.wall_s)
        for place in self.places:
            for child in place.children:
                if child.exit_code not in (None, 0):
                    raise IsthmusError(
                        f"{child.name} ended with {child.exit_code}\n{child.last_words()}",
                        where=str(child.log),
                    )
        return self.events

    def wait(self, until: Until, timeout_s: float) -> list[AnyEvent]:
        """Raises IsthmusError after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while not until(self.poll()):
            if time.monotonic() > deadline_s:
                words = "\n".join(child.last_words(3) for place in self.places for child in place.children)
                raise IsthmusError(f"the run did not get on in {timeout_s:.0f} s\n{words}", where="benchmark")
            time.sleep(POLL_S)
        return self.events

    def train_on(self, duration_s: float) -> list[AnyEvent]:
        end_s = time.monotonic() + duration_s
        return self.wait(lambda _: time.monotonic() >= end_s, duration_s + 1.0)

    def _all_train(self, events: Sequence[AnyEvent]) -> bool:
        counts = {name: 0 for name in self.cpus}
        for event in events:
            if isinstance(event, StepDone):
                counts[event.site] += 1
        return min(counts.values()) >= FIRST_STEPS

    def _bind(self) -> None:
        """Puts every site under its quota, where the system lets us."""
        self.bound_s = time.time()
        if not can_use_quotas():
            return
        for place in self.places:
            place.quota = self.stack.enter_context(quota(self.cpus[place.name]))
            for child in place.children:
                assert child.process
                place.quota.add(child.process.pid)

    def bound_shares(self) -> list[float]:
        """Of each site: share of the periods in which it ran into its quota. [] without quotas."""
        return [place.quota.throttled_share() for place in self.places if place.quota]

    def child(self, name: str, module: str, arguments: Sequence[str], prefix: Sequence[str] = ()) -> Child:
        return Child(
            name=name,
            argv=[*prefix, *leash.command(module, arguments)],
            log=self.folder / "logs" / f"{name}.log",
            env={"OMP_NUM_THREADS": "1"},
        )


@dataclass
class Fleet(Run):
    """Sites joined by a parameter server, each behind a link of its own."""

    link: Link = DISTANT
    apart: list[Span] = field(default_factory=list)
    """When the sites were left to themselves."""

    def start(self) -> None:
        self.star: Star = self.stack.enter_context(star({name: self.link.shape for name in self.cpus}))
        self.run = RunDir(self.folder / "run")
        fleet = FleetSpec(sites={name: SiteSpec(link=self.link.spec) for name in self.cpus})
        self.plan = make_plan(fleet, self.spec)
        write_run(self.run, self.spec, fleet, self.plan, hosts=[self.star.server_host])
        self.port = free_port()
        bind = f"{self.star.server_host}:{self.port}"
        self.server = self.child(
            "server",
            "isthmus.outer.server",
            ["--run-dir", str(self.run.path), "--bind", bind],
            self.star.server_prefix(),
        )
        self.others.append(self.server)
        self.server.start()
        wait_for_address(self.run, self.server)
        for site in self.cpus:
            self._start_site(site)

    def train_apart(self, duration_s: float) -> None:
        """Server, clients and links stand still for so long; the sites train on, each by itself, on the work
        they hold. Shorter than `Timing.silence_s`, so that no link is dialled again.
        """
        start_s = time.time()
        self._signal_others(signal.SIGSTOP)
        self.train_on(duration_s)
        self._signal_others(signal.SIGCONT)
        self.apart.append(Span(start_s, time.time()))

    def _signal_others(self, number: signal.Signals) -> None:
        for child in (self.server, *(place.client for place in self.places)):
            if child:
                child.signal(number)
        self.star.signal(number)

    @property
    def run_dirs(self) -> list[Path]:
        return [self.run.path]

    def _start_site(self, site: str) -> None:
        prefix = self.star.site_prefix(site)
        line = self.folder / f"{site}.sock"
        address = self.star.dial(site, self.port)
        client = self.child(
            f"client-{site}",
            "isthmus.outer.client",
            client_arguments(self.run, self.plan.site(site), [address], self.run.certs, line),
            prefix,
        )
        rank = self.child(
            f"rank-{site}",
            "isthmus.train",
            ["--run-dir", str(self.run.path), "--site", site, "--line", str(line)],
            prefix,
        )
        client.start()
        start_ranks([rank])
        self.places.append(Place(site, rank, client))

    def kill_server(self) -> None:
        assert self.server.process
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()

    def restart_server(self) -> None:
        self.run.server_address.unlink(missing_ok=True)
        self.server.start()
        wait_for_address(self.run, self.server)


@dataclass
class Alone(Run):
    """The same sites at the same time, each training by itself, without a server."""

    def start(self) -> None:
        for site in self.cpus:
            run = RunDir(self.folder / site)
            fleet = FleetSpec(sites={site: SiteSpec()})
            spec = msgspec.structs.replace(self.spec, outer=type(self.spec.outer)())
            write_run(run, spec, fleet, make_plan(fleet, spec), hosts=None)
            rank = self.child(f"rank-{site}", "isthmus.train", ["--run-dir", str(run.path), "--site", site])
            start_ranks([rank])
            self.places.append(Place(site, rank))

    @property
    def run_dirs(self) -> list[Path]:
        return [self.folder / site for site in self.cpus]


def sites(count: int) -> list[str]:
    """Their names."""
    return [f"site{index}" for index in range(count)]
