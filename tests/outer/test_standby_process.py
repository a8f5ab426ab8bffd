"""Server and standby as real processes that are killed; clients and NumPy ranks in this one."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from isthmus.agent.launch import free_port
from isthmus.agent.prepare import write_run
from isthmus.errors import AuthError
from isthmus.journal.reader import Reader
from isthmus.journal.store import DiskStore
from isthmus.outer import bridge
from isthmus.outer.client import Handler, listen
from isthmus.outer.client_executor import Client
from isthmus.outer.dialect import dialect
from isthmus.outer.layout import build_layout
from isthmus.outer.protocol import records
from isthmus.outer.ranges import normal, total
from isthmus.outer.server import BY_HAND_EPOCHS
from isthmus.outer.wal import Wal
from isthmus.planner.make import make_plan
from isthmus.rundir import RunDir
from isthmus.spec.fleet import FleetSpec, ServerSpec, SiteSpec
from isthmus.spec.run import OuterSpec, RunSpec, TrainSpec
from isthmus.units import Count, Seconds
from isthmus.wire.transport import ClientTls, Session, Timing

LAYOUT = build_layout([("w", (64, 33)), ("b", (70,))], {}, 2)
TIMING = Timing(backoff_s=0.2)
PATIENCE_S = 60.0
NOT_FOUND, SUPERSEDED = 3, 7


class Log:
    def __init__(self):
        self.told = []

    def emit(self, event):
        self.told.append(event)


class Told:
    """Stands for a client."""

    def put(self, event):
        """Nothing is done about it."""

    def note_link(self, server, reason):
        """Nothing is done about it."""


class Site:
    """A site: its client in a thread, and a rank in another that pushes noise for what is leased."""

    def __init__(self, run: RunDir, name: str, servers: list[str]):
        self.name, self.log, self.over = name, Log(), False
        self.client = Client(name, run.site(name), self.log)
        path = run.path / f"{name}.sock"
        self.door = listen(path, self.client)
        tls = ClientTls.load(run.certs, name)
        self.sessions = [
            Session([server], tls, Handler(self.client, server), dialect(), timing=TIMING)
            for server in servers
        ]
        self.line = bridge.Line.dial(str(path), 10.0)
        self.threads = [
            threading.Thread(target=self.client.run, args=(self.sessions,), daemon=True),
            threading.Thread(target=self.rank, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def rank(self):
        self.line.send(bridge.Attach(LAYOUT, "m", "d", 4))
        self.work, self.stop, self.may_push, self.pushes, self.local = [], "", True, 0, None
        random = np.random.default_rng(len(self.name))
        while not self.over:
            for message in self.line.receive(0.02):
                self.hear(message)
            if self.stop:
                self.line.send(bridge.Leaving(self.stop))
                return
            if self.work and self.may_push and self.local is not None:
                self.push(random)

    def hear(self, message):
        match message:
            case bridge.Attached(path=path):
                self.vectors = bridge.Vectors(path, LAYOUT.size)
                self.vectors.snapshot[:] = 0.5
                self.line.send(bridge.SnapshotReady())
            case bridge.Granted(ranges=ranges):
                self.work.extend(ranges)
            case bridge.MayPush():
                self.may_push = True
            case bridge.Stop(reason=reason):
                self.stop = reason
            case bridge.BaseReady() if message.pushes_seen == self.pushes:
                if message.reset:
                    self.local, self.work = self.vectors.base.copy(), []
                else:
                    self.local = (self.local - self.vectors.reference) + self.vectors.base
                self.line.send(bridge.Taken(message.version, 0))

    def push(self, random):
        taken, self.work = self.work, []
        self.local = self.local + random.standard_normal(LAYOUT.size).astype(np.float32) / 100
        self.vectors.snapshot[:] = self.local
        self.may_push, self.pushes = False, self.pushes + 1
        self.line.send(bridge.Pushed(tuple(taken), 8 * total(tuple(taken)), [], 2, 0.02))

    @property
    def hashes(self) -> dict[int, str]:
        told = [event for event in self.log.told if type(event).__name__ == "VersionApplied"]
        return {event.version: event.hash for event in told}

    @property
    def newest(self) -> int:
        return max(self.hashes, default=-1)

    def close(self):
        self.over = True
        self.client.stop("test over")
        self.client._over = "test over"
        for thread in self.threads:
            thread.join(10.0)
        for session in self.sessions:
            session.close()
        self.door.close()
        self.line.close()
        self.client.close()


class Fleet:
    def __init__(self, path, sites):
        self.run = RunDir(path / "run")
        fleet = FleetSpec(sites={name: SiteSpec() for name in sites}, server=ServerSpec())
        outer = OuterSpec(
            inner_steps=2,
            standby_timeout=Seconds(2.0),
            site_timeout=Seconds(3.0),
            outage_reserve=Seconds(0.0),
        )
        spec = RunSpec(train=TrainSpec(tokens=Count(4_000_000), batch_size=4), outer=outer)
        write_run(self.run, spec, fleet, make_plan(fleet, spec))
        self.processes, self.sites, self.names = [], [], sites

    def start(self, run: RunDir, module: str, *arguments: str) -> subprocess.Popen:
        run.server_address.unlink(missing_ok=True)
        return self.spawn("-m", module, "--run-dir", str(run.path), *arguments)

    def call(self, *words: str) -> subprocess.Popen:
        return self.spawn("-c", "import sys; from isthmus.ui.cli import main; sys.exit(main())", *words)

    def spawn(self, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def address(self, run: RunDir) -> str:
        self.wait(run.server_address.exists)
        return run.server_address.read_text().strip()

    def serve(self, bind="127.0.0.1:0") -> subprocess.Popen:
        return self.start(self.run, "isthmus.outer.server", "--bind", bind)

    def stand_by(self, primary: str) -> subprocess.Popen:
        places = ["--certs", str(self.run.certs), "--bind", "127.0.0.1:0", "--primary", primary]
        return self.start(self.run.standby, "isthmus.outer.standby_server", *places)

    def join(self, *servers: str):
        self.sites = [Site(self.run, name, list(servers)) for name in self.names]

    def wait(self, what):
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            ended = [process for process in self.processes if process.poll() not in (None, 0, -9)]
            assert not ended, ended[0].communicate()[0]
            assert time.monotonic() < deadline, [site.log.told[-5:] for site in self.sites]
            time.sleep(0.02)

    def advance(self, versions: int = 3):
        """Every site comes `versions` further."""
        goal = max(site.newest for site in self.sites) + versions
        self.wait(lambda: all(site.newest >= goal for site in self.sites))

    def end(self, process: subprocess.Popen):
        """The run is stopped in order; every site has the same bits for every version."""
        process.send_signal(signal.SIGTERM)
        words, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, words
        known: dict[int, str] = {}
        for site in self.sites:
            for version, digest in site.hashes.items():
                assert known.setdefault(version, digest) == digest

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()
        for site in self.sites:
            site.close()


@pytest.fixture
def start(tmp_path):
    fleets = []

    def make(*sites):
        fleets.append(Fleet(tmp_path, sites))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def check_log(run: RunDir) -> records.Book:
    """Folds the whole log: each contribution is merged once, each sample has one fate."""
    wal = Wal(DiskStore(), run.server / "wal")
    log = [records.decode_record(entry.record) for entry in wal.replay()]
    wal.close()
    book = records.replay(log, records.Book())
    records.check(book)
    accepted = [entry.contribution for entry in log if isinstance(entry, records.ContributionAccepted)]
    merged = [key for entry in log if isinstance(entry, records.Merged) for key in entry.contributions]
    assert len(merged) == len(set(merged))
    pieces = [piece for contribution in accepted for piece in contribution.ranges]
    assert total(normal(pieces)) == sum(end - begin for begin, end in pieces), "a sample is trained twice"
    return book


def stands_by(run: RunDir, times: int = 1) -> bool:
    return sum("stands by" in getattr(event, "text", "") for event in Reader(run.path).poll()) >= times


def test_a_standby_takes_over_by_vote_and_fences_the_old_server(start):
    fleet = start("a", "b", "c")
    primary = fleet.serve()
    first = fleet.address(fleet.run)
    standby = fleet.stand_by(first)
    second = fleet.address(fleet.run.standby)
    fleet.join(first, second)
    fleet.wait(lambda: stands_by(fleet.run))
    fleet.advance()

    primary.kill()
    fleet.sites[2].close()  # two of three are a majority
    left = fleet.sites.pop()
    fleet.wait(fleet.run.standby.promoted.exists)
    fleet.advance()

    returned = fleet.serve(first)
    words, _ = returned.communicate(timeout=PATIENCE_S)
    fleet.processes.remove(returned)
    assert returned.returncode == SUPERSEDED, words
    assert "another one has taken its place" in words
    fleet.advance()

    fleet.sites.append(left)
    fleet.end(standby)
    book = check_log(fleet.run.standby)
    assert book.version >= max(site.newest for site in fleet.sites)
    assert book.standby == ""


def test_a_lost_standby_is_voted_off_and_comes_back_with_a_new_replica(start):
    fleet = start("a", "b")
    primary = fleet.serve()
    first = fleet.address(fleet.run)
    standby = fleet.stand_by(first)
    fleet.join(first)
    fleet.wait(lambda: stands_by(fleet.run))
    standby.kill()
    standby.wait()
    fleet.advance()

    returned = fleet.stand_by(first)
    fleet.wait(lambda: stands_by(fleet.run, times=2))
    fleet.advance()
    fleet.end(primary)
    words, _ = returned.communicate(timeout=PATIENCE_S)
    assert returned.returncode == 0, words
    assert check_log(fleet.run.standby) == check_log(fleet.run)


def test_a_copy_is_promoted_by_hand_and_fences_the_old_server(start, tmp_path):
    fleet = start("a", "b")
    primary = fleet.serve()
    first, second = fleet.address(fleet.run), f"127.0.0.1:{free_port()}"
    fleet.join(first, second)
    fleet.wait(lambda: all(site.newest >= 2 for site in fleet.sites))
    primary.kill()
    primary.wait()

    copy = RunDir(tmp_path / "copy")
    shutil.copytree(fleet.run.path, copy.path, ignore=shutil.ignore_patterns("*.sock", "sites"))
    promoted = fleet.call("server", "promote", str(copy.path), "--bind", second)
    fleet.advance()

    returned = fleet.serve(first)
    words, _ = returned.communicate(timeout=PATIENCE_S)
    fleet.processes.remove(returned)
    assert returned.returncode == SUPERSEDED, words

    fleet.end(promoted)
    assert check_log(copy).epoch == 1 + BY_HAND_EPOCHS


def test_there_is_nothing_to_promote_in_an_empty_folder(start):
    fleet = start("a")
    process = fleet.call("server", "promote", str(fleet.run.path), "--bind", "127.0.0.1:0")
    words, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == NOT_FOUND, words
    assert "nothing to go on from" in words


def test_a_site_that_speaks_another_dialect_is_refused_for_good(start):
    fleet = start("a")
    fleet.serve()
    address = fleet.address(fleet.run)
    tls, handler = ClientTls.load(fleet.run.certs, "a"), Handler(Told(), address)
    session = Session([address], tls, handler, b"isthmus 0.0.1 (deadbeef)", timing=TIMING)
    with pytest.raises(AuthError, match="speaks isthmus"):
        session.wait_up(PATIENCE_S)
    session.close()
