"""Server and clients in one process, over real TLS on loopback; NumPy threads play the ranks."""

import datetime
import math
import socket
import threading
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from isthmus import __version__
from isthmus.errors import AuthError
from isthmus.outer import bridge, client_executor, messages
from isthmus.outer.client import Handler, listen
from isthmus.outer.client_executor import Client
from isthmus.outer.layout import build_layout
from isthmus.outer.ledger import Ledger
from isthmus.outer.protocol import ServerConfig
from isthmus.outer.ranges import total
from isthmus.outer.server_executor import Server
from isthmus.spec.run import OuterSpec
from isthmus.wire import certs
from isthmus.wire.transport import ClientTls, Listener, ServerTls, Session, Timing

LAYOUT = build_layout([("w", (31, 17)), ("b", (64,))], {}, 2)
FIRST = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
TIMING = Timing(silence_s=20.0, handshake_s=20.0, dial_s=10.0, backoff_s=0.1)
BUDGET, BATCH = 120, 4


class Log:
    """Stands for a journal."""

    def __init__(self):
        self.told = []

    def emit(self, event):
        self.told.append(event)

    def of(self, name):
        return [event for event in self.told if type(event).__name__ == name]


@dataclass
class Rank:
    """Plays rank 0: trains noise on what is leased, and keeps what it stood on after each version."""

    path: str
    seed: int
    bases: dict[int, bytes] = field(default_factory=dict)
    resets: int = 0
    refused: bridge.Refused | None = None
    spoil_push: int = 0
    hold_from_push: int = 10**9
    """From this push on the version in hand is not taken up, so that it grows stale."""
    identity: tuple[str, str] = ("m", "d")
    error: BaseException | None = None

    def start(self):
        self.thread = threading.Thread(target=self._guarded, daemon=True)
        self.thread.start()
        return self

    def _guarded(self):
        try:
            self.run()
        except BaseException as error:
            self.error = error

    def run(self):
        self.work, self.stop, self.may_push, self.base = [], "", True, None
        self.line = bridge.Line.dial(self.path, 30.0)
        self.pushes = 0
        self.line.send(bridge.Attach(LAYOUT, *self.identity, BATCH))
        rng = np.random.default_rng(self.seed)
        while not self.refused:
            for message in self.line.receive(0.01):
                self.hear(message)
            if self.base is not None:
                self.take_up()
            if self.stop:
                return self.leave()
            self.train(rng)
        self.line.close()

    def hear(self, message):
        match message:
            case bridge.Attached(path=path):
                self.vectors = bridge.Vectors(path, LAYOUT.size)
                self.vectors.snapshot[:] = FIRST
                self.local = FIRST.copy()
                self.line.send(bridge.SnapshotReady())
            case bridge.Started(may_push=may_push):
                self.may_push = may_push
            case bridge.Granted(ranges=ranges):
                self.work.extend(ranges)
            case bridge.MayPush():
                self.may_push = True
            case bridge.BaseReady() if message.pushes_seen == self.pushes:
                self.base = message
            case bridge.Stop(reason=reason):
                self.stop = reason
            case bridge.Refused():
                self.refused = message

    def take_up(self):
        base = self.base
        if not base.reset and self.pushes >= self.hold_from_push:
            return
        self.base = None
        if base.reset:
            self.local = self.vectors.base.copy()
            self.work, self.resets = [], self.resets + 1
        else:
            self.local = (self.local - self.vectors.reference) + self.vectors.base
        self.line.send(bridge.Taken(base.version, 0))

    def train(self, rng):
        """Up to two steps on what is leased, then a push."""
        if not (self.work and self.may_push and self.resets):
            return
        taken, self.work = [self.work[0]], self.work[1:]
        if taken[0][1] - taken[0][0] > 2 * BATCH:
            start, end = taken[0]
            taken, self.work = [(start, start + 2 * BATCH)], [(start + 2 * BATCH, end), *self.work]
        self.local = self.local + 0.01 * rng.standard_normal(LAYOUT.size).astype(np.float32)
        self.push(tuple(taken))

    def push(self, ranges):
        self.pushes += 1
        if self.pushes == self.spoil_push:
            self.local[3] = np.nan
        self.vectors.snapshot[:] = self.local
        self.may_push, self.base = False, None
        self.line.send(bridge.Pushed(ranges, 8 * total(ranges), [], 2, 0.01))

    def leave(self):
        self.line.send(bridge.Leaving(self.stop))


class Fleet:
    """One server and as many sites as a test wants."""

    def __init__(self, tmp_path, certificates, **changes):
        self.path, self.certs = tmp_path, certificates
        self.outer = OuterSpec(
            **{"codec": "int8", "down_codec": "int8", "block_size": 16} | changes.pop("outer", {})
        )
        terms = messages.Terms(
            inner_steps=2,
            codec=self.outer.codec,
            down_codec=self.outer.down_codec,
            block_size=16,
            budget=changes.pop("budget", BUDGET),
            batch_size=BATCH,
            outage_reserve_s=0.1,
        )
        config = ServerConfig(
            terms=terms,
            identity=messages.Identity(code_version=__version__),
            sites=("a", "b", "c"),
            staleness_max=4,
            site_timeout_s=30.0,
        )
        self.config = msgspec.structs.replace(config, **changes)
        self.log, self.logs, self.clients, self.closers, self.ends = Log(), {}, {}, [], {}
        self.ranks: dict[str, Rank] = {}

    def serve(self, address=("127.0.0.1", 0)):
        self.ledger = Ledger(self.path / "server", self.outer, self.log)
        self.server = Server(self.config, self.ledger, self.log, seq_len=8)
        self.listener = Listener(address, ServerTls.load(self.certs), self.server, TIMING)
        self.address = self.listener.address
        self.server_thread = threading.Thread(target=self._serve, daemon=True)
        self.server_thread.start()
        return self

    def _serve(self):
        self.reason = self.server.run()

    def crash(self):
        """The server's end without a word, as far as one process can play it."""
        self.server._over = "crashed"
        self.server_thread.join(30.0)
        self.listener.close()
        self.ledger.close()

    def site(self, name, tls=None, **rank) -> Rank:
        log = self.logs[name] = Log()
        client = self.clients[name] = Client(name, self.path / name, log)
        path = self.path / f"{name}.sock"
        door = listen(path, client)
        session = Session(
            [self.address], tls or ClientTls.load(self.certs, name), Handler(client, "server"), timing=TIMING
        )

        def work():
            try:
                self.ends[name] = client.run([session])
            except AuthError as error:
                self.ends[name] = error
            finally:
                session.close()
                door.shutdown(socket.SHUT_RDWR)
                door.close()
                client.close()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.closers.append((client, thread))
        self.ranks[name] = Rank(str(path), seed=len(self.ranks) + 1, **rank).start()
        return self.ranks[name]

    def wait(self, what, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, (self.log.told[-10:], self.ends)
            for rank in self.ranks.values():
                if rank.error:
                    raise rank.error
            time.sleep(0.01)

    def finish(self):
        self.wait(lambda: not self.server_thread.is_alive())
        for _, thread in self.closers:
            thread.join(30.0)
            assert not thread.is_alive()
        return self.reason

    def close(self):
        for client, thread in self.closers:
            client._over = client._over or "test over"
            thread.join(10.0)
        for rank in self.ranks.values():
            rank.stop = rank.stop or "test over"
            rank.thread.join(10.0)
            if hasattr(rank, "line"):
                rank.line.close()
        for thread in threading.enumerate():
            if thread.name == "ranks":
                thread.join(10.0)
        self.server._over = self.server._over or "test over"
        self.server_thread.join(10.0)
        self.listener.close()
        self.ledger.close()

    def merged(self) -> list[int]:
        return sorted(
            sample for event in self.log.of("RangeMerged") for sample in range(event.start, event.end)
        )

    def hashes(self, name) -> dict[int, str]:
        return {event.version: event.hash for event in self.logs[name].of("VersionApplied")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs")
    certs.init(folder, ["a", "b", "c"], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
    return folder


@pytest.fixture
def fleet(tmp_path, certificates, monkeypatch):
    monkeypatch.setattr(client_executor, "TICK_S", 0.01)
    opened = []

    def make(**changes):
        opened.append(Fleet(tmp_path, certificates, **changes).serve())
        opened[-1].monkeypatch = monkeypatch
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize("codecs", [("int8", "int8"), ("int4", "bf16"), ("fp32", "fp32")])
def test_three_sites_train_every_sample_once_and_agree_on_every_version(fleet, codecs):
    run = fleet(outer={"codec": codecs[0], "down_codec": codecs[1]})
    for name in "abc":
        run.site(name)
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))
    assert len(run.log.of("RunFinished")) == 1
    assert [event.reason for event in run.log.of("SiteLeft")] == ["left"] * 3
    book = run.ledger.book
    published = {event.version for event in run.log.of("VersionPublished")}
    assert published == set(range(1, book.version + 1))
    known = {}
    for name in "abc":
        for version, digest in run.hashes(name).items():
            assert known.setdefault(version, digest) == digest
    assert known[book.version] == book.hash
    assert sum(e.tokens for e in run.log.of("VersionPublished")) == 8 * BUDGET


def test_a_push_that_is_not_finite_is_quarantined_and_trained_again(fleet):
    run = fleet()
    bad = run.site("a", spoil_push=2)
    run.site("b")
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))
    assert [event.site for event in run.log.of("Quarantined")] == ["a"]
    assert bad.resets == 2
    assert all(np.isfinite(part).all() for part in run.ledger.parameters().values())


def test_pushes_that_are_refused_in_a_row_do_not_wedge_the_site(fleet):
    run = fleet(outlier_factor=1e-9, outlier_after=1)
    rank = run.site("a")
    run.wait(lambda: len(run.log.of("Quarantined")) >= 5)
    assert rank.resets >= 5


def test_a_stale_push_is_discarded_and_trained_again(fleet):
    run = fleet(staleness_max=0)
    held = run.site("a", hold_from_push=1)
    run.site("b")
    run.wait(lambda: any(e.reason == "stale" for e in run.log.of("RangeDiscarded")))
    held.hold_from_push = 10**9
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))


@pytest.mark.parametrize(
    ("identity", "words"), [(("x", "d"), "another model"), (("m", "x"), "other data")], ids=["model", "data"]
)
def test_a_site_that_differs_is_refused_with_the_reason(fleet, identity, words):
    run = fleet()
    run.site("a", spoil_push=0)
    run.wait(lambda: run.log.of("SiteJoined"))
    other = run.site("b", identity=identity)
    run.wait(lambda: other.refused)
    assert words in other.refused.reason
    assert other.refused.hint
    run.wait(lambda: "b" in run.ends)
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))


def test_another_code_version_is_refused(fleet, monkeypatch):
    run = fleet()
    run.site("a")
    run.wait(lambda: run.log.of("SiteJoined"))
    monkeypatch.setattr(client_executor, "__version__", "0.0.0")
    other = run.site("b")
    run.wait(lambda: other.refused)
    assert "0.0.0" in other.refused.reason
    assert run.finish() == "budget"


@pytest.mark.parametrize("wrong", ["other authority", "other site's token"])
def test_a_wrong_certificate_reaches_the_ranks(fleet, tmp_path, certificates, wrong):
    run = fleet()
    if wrong == "other authority":
        certs.init(tmp_path / "other", ["a"], ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
        tls = ClientTls.load(tmp_path / "other", "a")
    else:
        tls = ClientTls.load(certificates, "a")
        tls = type(tls)(**{**vars(tls), "token": ClientTls.load(certificates, "b").token})
    rank = run.site("a", tls=tls)
    run.wait(lambda: rank.refused and "a" in run.ends)
    assert isinstance(run.ends["a"], AuthError)
    assert rank.refused.hint


def test_a_site_far_behind_catches_up(fleet):
    """One that takes nothing up while the others make more versions than the server keeps deltas of."""
    run = fleet(budget=800)
    slow = run.site("a")
    run.wait(lambda: slow.resets)
    busy = threading.Event()
    client, real = run.clients["a"], Client._do_install

    def install(self, action):
        if self is client:
            busy.wait(60.0)
        return real(self, action)

    run.monkeypatch.setitem(client_executor._EXECUTE, client_executor.machine.Install, install)
    run.site("b")
    run.wait(lambda: run.ledger.book.version >= 13)
    busy.set()
    assert run.finish() == "budget"
    assert run.hashes("a")[run.ledger.book.version] == run.ledger.book.hash


def test_the_server_dies_and_comes_back(fleet, tmp_path, certificates):
    run = fleet()
    for name in "ab":
        run.site(name)
    run.wait(lambda: len(run.log.of("VersionPublished")) >= 3)
    run.crash()
    merged_before = run.merged()
    assert len(merged_before) == len(set(merged_before))
    run.serve(run.address)
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))
    assert run.ledger.book.epoch == 2
    book = run.ledger.book
    for name in "ab":
        assert run.hashes(name)[book.version] == book.hash


def test_ranks_that_die_are_replaced_and_their_work_is_done_again(fleet):
    run = fleet()
    first, _ = run.site("a"), run.site("b")
    run.wait(lambda: first.pushes >= 2)
    first.stop = "killed"
    first.leave = lambda: None
    first.thread.join(10.0)
    first.line.close()
    run.ranks["a"] = Rank(first.path, seed=9).start()
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))


def test_new_ranks_hear_nothing_that_was_meant_for_the_old(fleet):
    """Ranks are replaced over and over; work given to one set must not be trained by the next."""
    run = fleet()
    rank = run.site("a")
    for number in range(12):
        run.wait(lambda rank=rank: rank.resets or run.ends)
        if run.ends:
            break
        rank.stop, rank.leave = "killed", lambda: None
        rank.thread.join(10.0)
        rank.line.close()
        rank = run.ranks["a"] = Rank(rank.path, seed=number).start()
    assert run.finish() == "budget"
    assert run.merged() == list(range(BUDGET))


def test_asked_to_stop_it_leaves_with_its_last_push(fleet):
    run = fleet()
    for name in "ab":
        run.site(name)
    run.wait(lambda: len(run.log.of("VersionPublished")) >= 2)
    run.server.stop("checkpoint")
    assert run.finish() == "checkpoint"
    assert [event.reason for event in run.log.of("SiteLeft")] == ["left", "left"]
    merged = run.merged()
    assert len(merged) == len(set(merged)) == run.ledger.book.merged_samples < BUDGET
    assert not run.ledger.book.accepted


def test_a_site_that_sends_nonsense_is_dropped_and_the_others_train_on(fleet, certificates):
    run = fleet()
    run.site("a")
    run.wait(lambda: run.log.of("SiteJoined"))

    class Nonsense:
        def __init__(self):
            self.downs = 0

        def on_up(self, peer):
            peer.put("up/a/1/1/0", bytes(10))
            peer.put("up/b/1/x/0", bytes(10))
            peer.send(b"\xc1 nothing of ours")

        def on_down(self, peer, reason):
            self.downs += 1

    handler = Nonsense()
    session = Session([run.address], ClientTls.load(certificates, "b"), handler, timing=TIMING)
    run.wait(lambda: handler.downs >= 1)
    session.close()
    assert run.finish() == "budget"


def test_norms_and_sizes_are_journaled(fleet):
    run = fleet()
    run.site("a")
    run.finish()
    for event in run.log.of("ContributionReceived"):
        assert math.isfinite(event.norm)
        assert event.bytes_up > LAYOUT.size
