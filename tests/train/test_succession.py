"""Rank 0 is killed at every place where something of it can be seen, and another takes its place.

Site, feed and the executor of the client are the real ones, in one thread on a scripted line; the server's
answers come at given steps. What a run hands in and where it ends is the same, bit for bit, as undisturbed.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from isthmus.outer import bridge, messages, site_boundary
from isthmus.outer.client_events import Blob, Dialled, Heard
from isthmus.outer.client_executor import REPLACE_S, Client
from isthmus.outer.member import state as machine
from isthmus.outer.merge import hash_fragments
from isthmus.outer.parameters import Exchange
from isthmus.outer.ranges import normal, total
from isthmus.outer.site import Site, SiteJob
from isthmus.outer.site_state import Stand
from isthmus.train.feed import StepStats, Work
from isthmus.train.site_feed import SiteFeed
from isthmus.wire import codecs

BATCH, WINDOW, STEPS = 4, 3, 14


class Killed(BaseException):
    """Rank 0 is no more."""


class Clock:
    def __init__(self):
        self.time_s = 1000.0

    def now_s(self):
        return self.time_s

    def wall_s(self):
        return self.time_s


class Log:
    def __init__(self):
        self.told = []

    def emit(self, event):
        self.told.append(event)

    def texts(self):
        return [event.text for event in self.told if type(event).__name__ == "Note"]


class Server:
    """Merges each contribution by itself, `late` steps after it came."""

    def __init__(self, terms: messages.Terms, late: int):
        self.terms, self.late = terms, late
        self.now = self.grants = self.version = self.cursor = 0
        self.blobs: dict[str, np.ndarray] = {}
        self.commits: list[tuple[Any, ...]] = []
        self.lost: list[messages.Lost] = []
        self.due: list[tuple[int, Callable[[], list[Any]]]] = []
        self.ready: list[Any] = []

    # what a client's peer does
    def put(self, key, payload):
        self.blobs[key] = np.frombuffer(bytes(payload), np.uint8)

    def send(self, data):
        match messages.decode(data):
            case messages.Hello() as hello:
                self.ready += self._welcome(hello)
            case messages.Commit(contribution=contribution):
                payloads = [self.blobs[fragment.key] for fragment in contribution.fragments]
                bits = b"".join(payload.tobytes() for payload in payloads)
                self.commits.append((contribution.ranges, contribution.steps, contribution.tokens, bits))
                self.due.append((self.now + self.late, lambda: self._merge(contribution, payloads)))
            case messages.WantWork(samples=samples):
                self.due.append((self.now + 1, lambda: self._grant(samples)))
            case messages.Lost() as lost:
                self.lost.append(lost)

    def _welcome(self, hello):
        self.published = np.random.default_rng(7).standard_normal(self.layout.size).astype(np.float32)
        held = ((0, 4 * WINDOW * BATCH),)
        self.cursor = held[0][1]
        welcome = messages.Welcome(
            epoch=1, incarnation=hello.incarnation, session=hello.session, admission=1, terms=self.terms,
            batch_size=BATCH, version=0, window=WINDOW, grants=0, held=held, seq=0, fate="",
        )  # fmt: skip
        return [self._said(welcome), *self._version(base=-1, merged={})]

    def _said(self, message):
        return machine.Received("primary", message)

    def _version(self, base, merged):
        views = self.layout.views(self.published)
        ready = messages.VersionReady(
            epoch=1, version=self.version, base=base, hash=hash_fragments(views), contributors=(),
            merged=merged, window=WINDOW,
        )  # fmt: skip
        blobs = [
            Blob(messages.version_key(ready, index), view.view(np.uint8).copy())
            for index, view in enumerate(views)
        ]
        return [*blobs, self._said(ready)]

    def _merge(self, contribution, payloads):
        for payload, view in zip(payloads, self.layout.views(self.published), strict=True):
            codecs.decode_add("int8", payload, 16, view, -0.7)
        self.version += 1
        merged = {"a": (contribution.incarnation, contribution.seq)}
        accepted = messages.Accepted(epoch=1, incarnation=contribution.incarnation, seq=contribution.seq)
        said = [self._said(accepted), *self._version(self.version - 1, merged)]
        return [*said, *(self._grant(WINDOW * BATCH) if self.terms.mode == "strict" else [])]

    def _grant(self, samples):
        """Two pieces, the later one first: the order of work in hand is not that of its numbers."""
        self.grants += 1
        start, half = self.cursor, samples // 2
        self.cursor += samples
        ranges = ((start, start + half), (start + half + 1, start + samples))
        return [self._said(messages.Grant(epoch=1, number=self.grants, ranges=ranges, window=WINDOW))]

    # time
    def advance(self, step):
        if step > self.now:
            self.now = step
            self._release(step)

    def hurry(self):
        """Somebody waits: the next answer comes now."""
        if self.due:
            self._release(min(when for when, _ in self.due))

    def _release(self, step):
        for when, answer in [item for item in self.due if item[0] <= step]:
            self.due.remove((when, answer))
            self.ready += answer()


class ClientEnd:
    """The line as the client has it."""

    def __init__(self):
        self.inbox: list[bridge.LocalMessage] = []
        self.closed = False

    def send(self, message):
        self.inbox.append(copied(message))

    def close(self):
        self.closed = True


class SiteEnd:
    """The line as rank 0 has it. Each message is a place to die: before it, after it."""

    def __init__(self, world: "World", far: ClientEnd):
        self.world, self.far = world, far

    def send(self, message):
        name = type(message).__name__
        self.world.place(f"before {name}")
        self.world.client_takes(Heard(self.far, copied(message)))
        if isinstance(message, bridge.Noted):
            self.world.server.advance(message.note.step)
            self.world.client_takes()
        self.world.place(f"after {name}")

    def receive(self, timeout_s):
        if not self.far.inbox and timeout_s:
            self.world.server.hurry()
            self.world.client_takes()
        heard, self.far.inbox = self.far.inbox, []
        if heard:
            self.world.place("heard " + " ".join(type(message).__name__ for message in heard))
        return heard

    def close(self):
        pass


def copied(message: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=bridge.LocalMessage)


def build() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Linear(9, 5)


class Survivor:
    """All ranks but rank 0."""

    def __init__(self):
        self.model, self.step, self.samples = build(), 0, []

    def take(self, model):
        self.model.load_state_dict(model.state_dict())

    def tear(self):
        with torch.no_grad():
            self.model.weight[2:] = float("nan")


@torch.no_grad()
def learn(model: torch.nn.Module, samples) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.sin(parameter * 50 + sum(start * 3 + end for start, end in samples)), alpha=0.01)


class World:
    """`kills`: numbers of the places where rank 0 dies. `lag`: the others lack its last step then."""

    def __init__(self, folder: Path, monkeypatch, mode="elastic", delay=-1, late=1, kills=(), lag=False):
        terms = messages.Terms(
            mode=mode, inner_steps=WINDOW, delay=delay, codec="int8", down_codec="fp32", block_size=16,
            budget=10**6, batch_size=BATCH, outage_reserve_s=0.0, heartbeat_s=1e9,
        )  # fmt: skip
        self.kills, self.lag, self.places = set(kills), lag, []
        self.server, self.clock, self.log = Server(terms, late), Clock(), Log()
        self.client = Client("a", folder, self.log, self.clock)
        self.client.peers["primary"] = self.server
        self.others = Survivor()
        self.successor = False
        self.ending = False
        monkeypatch.setattr(bridge.Line, "dial", self.dial)
        monkeypatch.setattr(site_boundary, "Exchange", self.exchange())
        self.client_takes(machine.LinkUp("primary"))

    def exchange(self):
        """Saving is another place to die: half of the snapshot is another model's then."""
        world = self

        class Torn(Exchange):
            def save(self):
                world.place("saving", lambda: self._snapshot[7:].fill_(123.0))
                super().save()

        return Torn

    def dial(self, path, timeout_s):
        self.far = ClientEnd()
        self.client_takes(Dialled(self.far))
        return SiteEnd(self, self.far)

    def client_takes(self, *events):
        for event in events:
            self.client._take(event)
            if isinstance(event, Heard) and isinstance(event.message, bridge.Attach):
                self.server.layout = event.message.layout
            self.client._drive()
        while self.server.ready:
            ready, self.server.ready = self.server.ready, []
            self.client_takes(*ready)
        self.client._drive()

    def place(self, name, damage=lambda: None):
        if self.ending:
            return
        self.places.append(name)
        if len(self.places) - 1 in self.kills:
            damage()
            raise Killed

    def run(self) -> "World":
        for _ in range(len(self.kills) + 1):
            try:
                self.life()
                self.client.close()
                return self
            except Killed:
                self.successor = True
                self.client_takes(Heard(self.far, None))
        raise AssertionError("more lives than kills")

    def life(self):
        """Of one rank 0, as the training loop has it."""
        model, others = build(), self.others
        model.load_state_dict(others.model.state_dict())
        stand = Stand(step=others.step, samples=tuple(others.samples), resume=self.successor)
        self.site = Site(model, line="x", job=SiteJob(batch_size=BATCH), stand=stand)
        self.site.__enter__()
        feed = SiteFeed(self.site, 10**6)
        if self.successor and others.step:
            feed.after_step(self.stats(others.step, others.samples))
        while others.step < STEPS:
            offer = feed.next(BATCH)
            if offer.new_parameters:
                self.place("sharing", others.tear)
                others.take(model)
            if isinstance(offer.task, Work):
                self.step(model, feed, offer.task.ranges)
        self.model, self.ending = model, True
        self.site.leave("the end")

    def step(self, model, feed, samples):
        others = self.others
        learn(model, samples)
        if not self.lag:
            self.others_step(samples)
        feed.after_step(self.stats(others.step + self.lag, samples))
        if self.lag:
            self.others_step(samples)

    def others_step(self, samples):
        learn(self.others.model, samples)
        self.others.step += 1
        self.others.samples = samples

    def stats(self, step, samples):
        count = total(normal(samples))
        return StepStats(step, samples, 1.0, 8 * count, [count, step], 0.1, 1.0, 0.1)

    def end(self):
        """What must not depend on who died when."""
        parameters = [p.detach().numpy().tobytes() for p in self.model.parameters()]
        return self.server.commits, self.server.published.tobytes(), parameters


SHAPES = {
    "elastic, at once": {"late": 1},
    "elastic, slow": {"late": 2},
    "elastic, slower than a window": {"late": 5},
    "strict, delay 0": {"mode": "strict", "delay": 0},
    "strict, delay 1": {"mode": "strict", "delay": 1},
    "strict, delay of a window": {"mode": "strict", "delay": WINDOW},
    "strict, delay measured": {"mode": "strict", "delay": -1, "late": 2},
}


@pytest.fixture(params=SHAPES, ids=lambda name: name.replace(", ", "-").replace(" ", "_"))
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def world(tmp_path, monkeypatch):
    return lambda **given: World(tmp_path, monkeypatch, **given).run()


def first_place(calm: World) -> int:
    """Where rank 0 has left its first note: before, there is nothing to go on from."""
    return calm.places.index("after Taken")


def check(calm: World, found: World) -> None:
    assert found.end() == calm.end()
    assert not found.server.lost
    assert not [text for text in found.log.texts() if "start over" in text]


@pytest.mark.parametrize("lag", [False, True], ids=["others_have_done_it", "others_do_it_again"])
def test_nothing_is_lost_or_done_twice_wherever_rank_0_dies(world, shape, lag):
    calm = world(**shape)
    assert len(calm.server.commits) >= 3
    for kill in range(first_place(calm), len(calm.places)):
        found = world(**shape, kills={kill}, lag=lag)
        try:
            check(calm, found)
        except AssertionError as error:
            raise AssertionError(f"killed at {kill}: {calm.places[kill]}") from error


def test_nor_when_its_successors_die_too(world, shape):
    calm = world(**shape)
    rng = random.Random(5)
    for _ in range(40):
        kills = rng.sample(range(first_place(calm), len(calm.places)), 4)
        near = rng.choice(kills)
        check(calm, world(**shape, kills={*kills, near + 1, near + 2}, lag=rng.random() < 0.5))


def test_samples_are_handed_in_once(world, shape):
    calm = world(**shape)
    pieces = sorted(piece for ranges, *_ in calm.server.commits for piece in ranges)
    assert all(left[1] <= right[0] for left, right in pairwise(pieces))
    assert total(normal(pieces)) == STEPS * BATCH


def test_where_the_client_has_no_note_the_ranks_start_over(world):
    found = world(late=1, kills={0})
    assert "no note of step 0" in found.log.texts()[0]
    assert total(normal([piece for ranges, *_ in found.server.commits for piece in ranges])) == STEPS * BATCH


def test_ranks_that_stand_elsewhere_start_over(world):
    """As after a checkpoint: the note is of a step that nobody stands near."""
    found = world(late=1)
    recall = found.client._ranks.recall
    assert [recall.answer(STEPS + ahead) is not None for ahead in range(-2, 3)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_ranks_that_nobody_replaces_count_as_dead(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, kills={20})
    with pytest.raises(Killed):
        world.life()
    world.client_takes(Heard(world.far, None))
    assert world.client._state.attached
    world.clock.time_s += REPLACE_S + 1.0
    world.client_takes()
    assert not world.client._state.attached
    assert world.server.lost
    world.successor = True
    world.life()
    assert [text for text in world.log.texts() if "start over" in text]


def test_a_site_asked_to_leave_does_not_wait_for_another_rank_0(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, kills={20})
    with pytest.raises(Killed):
        world.life()
    world.client_takes(Heard(world.far, None))
    world.client.stop("checkpoint")
    monkeypatch.setattr("isthmus.outer.client_executor.TICK_S", 0.01)
    world.client._links.sampled_s = 1e12
    assert world.client.run([FakeSession()]) == "checkpoint"
    assert world.server.lost


class FakeSession:
    error = None
