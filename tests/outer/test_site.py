"""A Site against a client that does as the test says."""

import socket
import threading
import time
from typing import Any, cast

import numpy as np
import pytest
import torch

from isthmus.errors import IsthmusError
from isthmus.outer import bridge
from isthmus.outer.site import Site, SiteJob
from isthmus.outer.site_entry import Entry
from isthmus.outer.site_state import SiteState, Stand
from isthmus.outer.site_talk import Talk


class Client:
    """The other end of the line. Answers the attachment; everything else is the test's."""

    def __init__(self, door: socket.socket, strict=False, inner_steps=2, delay=-1, may_push=True, base=None):
        self.door = door
        self.terms = (strict, inner_steps, delay, may_push)
        self.first = base
        self.heard: list = []
        self.vectors = None
        self.joins = 0
        self.thread = None

    def attend(self):
        self.thread = threading.Thread(target=self._attend, daemon=True)
        self.thread.start()
        return self

    def _attend(self):
        connection, _ = self.door.accept()
        self.line = bridge.Line(connection)
        self.joins += 1
        attach = self.expect(bridge.Attach)
        self.layout = attach.layout
        self.vectors = bridge.Vectors.make(attach.layout.size)
        self.line.send(bridge.Attached(str(self.vectors.path)))
        self.expect(bridge.SnapshotReady)
        self.line.send(bridge.Started(*self.terms))
        first = self.vectors.snapshot if self.first is None else self.first
        self.offer(first, version=0, pushes_seen=0, reset=True, moments=True)
        assert self.expect(bridge.Taken).version == 0
        self.vectors.reference[:] = self.vectors.base

    def ready(self):
        self.thread.join(30.0)
        assert not self.thread.is_alive()

    def offer(self, values, version, pushes_seen, reset=False, moments=False):
        self.vectors.base[:] = values
        self.line.send(bridge.BaseReady(version, pushes_seen, reset, moments))

    def expect(self, kind):
        """The next message of this kind."""
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            for index, message in enumerate(self.heard):
                if isinstance(message, kind):
                    return self.heard.pop(index)
            self.heard += self.line.receive(1.0)
        raise AssertionError(f"no {kind.__name__} in {self.heard}")

    def take_push(self):
        """Hears a push and moves the reference, as the client's encoding does."""
        pushed = self.expect(bridge.Pushed)
        self.vectors.reference[:] = self.vectors.snapshot
        return pushed

    def silent(self, kind):
        self.heard += self.line.receive(0)
        assert not [message for message in self.heard if isinstance(message, kind)]

    def close(self):
        if self.thread:
            self.thread.join(1.0)
        if hasattr(self, "line"):
            self.line.close()
        if self.vectors:
            self.vectors.remove()


class Bench:
    """Builds a model, its client and its site."""

    def __init__(self, tmp_path):
        self.path = tmp_path / "line.sock"
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(str(self.path))
        self.door.listen()
        self.opened = []

    def client(self, **terms) -> Client:
        client = Client(self.door, **terms)
        self.opened.append(client)
        return client.attend()

    def join(self, model, optimizer=None, **terms) -> tuple[Site, Client]:
        client = self.client(**terms)
        site = Site(model, optimizer, line=str(self.path), job=SiteJob(batch_size=4))
        site.__enter__()
        client.ready()
        self.opened.append(site)
        return site, client

    def close(self):
        for thing in reversed(self.opened):
            thing.__exit__() if isinstance(thing, Site) else thing.close()
        self.door.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def build(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(dtype)


def flat(model, layout) -> np.ndarray:
    tensors = dict(model.named_parameters())
    pieces = [
        tensors[p.tensor].detach().float().view(-1)[p.start : p.start + p.length] for p in layout.pieces()
    ]
    return torch.cat(pieces).numpy().copy()


def move(model, seed: int) -> None:
    """An inner step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.01)


def heard_by(site: Site, what):
    """Lets the site hear until `what()`."""
    deadline = time.monotonic() + 30.0
    while not what():
        assert time.monotonic() < deadline
        site._talk.look(0.1)


def test_it_starts_from_the_published_parameters(bench):
    model = build()
    base = np.arange(sum(p.numel() for p in model.parameters()), dtype=np.float32)
    _, client = bench.join(model, base=base)
    assert np.array_equal(flat(model, client.layout), base)


def test_a_site_that_waits_long_for_its_server_says_so(bench, monkeypatch, caplog):
    bench.join(build())
    assert not caplog.records
    monkeypatch.setattr("isthmus.outer.site_talk._START_QUIET_S", -1.0)
    bench.join(build())
    assert "no word from the parameter server" in caplog.text


def test_it_pushes_after_h_steps_with_what_they_used(bench):
    model = build()
    site, client = bench.join(model, inner_steps=2)
    client.line.send(bridge.Granted(((0, 20),)))
    for step in range(2):
        samples = site.take(4)
        client.silent(bridge.Pushed)
        move(model, step)
        site.step(tokens=32, samples=samples, group_tokens=[1, step], busy_s=0.5)
    pushed = client.take_push()
    assert (pushed.ranges, pushed.tokens, pushed.steps, pushed.step_s) == (((0, 8),), 64, 2, 0.5)
    assert pushed.group_tokens == [2, 1]
    assert np.array_equal(client.vectors.snapshot, flat(model, client.layout))


def test_it_pushes_once_until_the_fate_is_known_and_then_all_steps(bench):
    model = build()
    site, client = bench.join(model, inner_steps=1)
    site.step(tokens=1)
    client.take_push()
    for _ in range(3):
        site.step(tokens=1)
    client.silent(bridge.Pushed)
    client.line.send(bridge.MayPush())
    heard_by(site, lambda: site._state.may_push)
    site.step(tokens=1)
    assert client.take_push().steps == 4


def test_new_ranks_wait_for_the_fate_of_what_the_old_ones_pushed(bench):
    site, client = bench.join(build(), inner_steps=1, may_push=False)
    site.step(tokens=1)
    client.silent(bridge.Pushed)
    client.line.send(bridge.MayPush())
    heard_by(site, lambda: site._state.may_push)
    site.step(tokens=1)
    assert client.take_push().steps == 2


def test_local_progress_is_kept_when_a_version_is_taken_up(bench):
    model = build()
    site, client = bench.join(model, inner_steps=1)
    move(model, 1)
    site.step(tokens=1)
    client.take_push()
    reference = client.vectors.reference.copy()
    move(model, 2)
    local = flat(model, client.layout)
    base = np.random.default_rng(0).standard_normal(reference.size).astype(np.float32)
    client.offer(base, version=1, pushes_seen=1)
    heard_by(site, lambda: site._state.base is not None)
    assert site.step(tokens=1) is True
    assert np.array_equal(flat(model, client.layout), (local - reference) + base)
    assert client.expect(bridge.Taken).version == site.version == 1


def test_taking_up_without_progress_is_exact(bench):
    model = build()
    site, client = bench.join(model, inner_steps=1)
    site.step(tokens=1)
    client.take_push()
    base = np.random.default_rng(0).standard_normal(client.layout.size).astype(np.float32)
    client.offer(base, version=1, pushes_seen=1)
    heard_by(site, lambda: site._state.base is not None)
    site.step(tokens=1)
    assert np.array_equal(flat(model, client.layout), base)


def test_other_float_types_are_exchanged_in_fp32(bench):
    model = build(dtype=torch.bfloat16)
    site, client = bench.join(model, inner_steps=1)
    move(model, 1)
    site.step(tokens=1)
    client.take_push()
    assert np.array_equal(client.vectors.snapshot, flat(model, client.layout))
    move(model, 2)
    client.offer(client.vectors.reference + 1, version=1, pushes_seen=1)
    heard_by(site, lambda: site._state.base is not None)
    wanted = torch.from_numpy(flat(model, client.layout) - client.vectors.reference + client.vectors.base)
    site.step(tokens=1)
    assert np.array_equal(flat(model, client.layout), wanted.bfloat16().float().numpy())


def test_a_base_from_before_the_latest_push_is_not_taken(bench):
    model = build()
    site, client = bench.join(model, inner_steps=1)
    move(model, 1)
    site.step(tokens=1)
    client.take_push()
    before = flat(model, client.layout)
    client.offer(client.vectors.reference + 1, version=1, pushes_seen=0)
    client.line.send(bridge.Pace(50))
    heard_by(site, lambda: site.inner_steps == 50)
    assert site.step(tokens=1) is False
    assert np.array_equal(flat(model, client.layout), before)


def test_a_reset_drops_progress_work_and_moments(bench):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    site, client = bench.join(model, optimizer, inner_steps=10)
    site.was_reset()
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    client.line.send(bridge.Granted(((0, 20),)))
    site.take(4)
    site.step(tokens=1, samples=[(0, 4)])
    base = np.full(client.layout.size, 3, np.float32)
    client.offer(base, version=5, pushes_seen=0, reset=True, moments=True)
    client.line.send(bridge.Granted(((40, 44),)))
    heard_by(site, lambda: site._state.base is not None)
    assert site.poll()
    assert np.array_equal(flat(model, client.layout), base)
    assert site.was_reset()
    assert not site.was_reset()
    assert not optimizer.state
    assert site._state.window.steps == 0


def test_work_granted_right_after_a_reset_is_kept(bench):
    model = build()
    site, client = bench.join(model, inner_steps=10)
    client.line.send(bridge.Granted(((0, 8),)))
    assert site.take(4) == [(0, 4)]
    client.offer(np.zeros(client.layout.size, np.float32), version=1, pushes_seen=0, reset=True)
    heard_by(site, lambda: site._state.base is not None)
    site.poll()
    client.expect(bridge.Taken)
    client.line.send(bridge.Granted(((100, 104),)))
    assert site.take(4, timeout_s=30.0) == [(100, 104)]


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_strict_takes_the_version_up_exactly_delay_steps_after_the_push(bench, delay):
    model = build()
    site, client = bench.join(model, strict=True, inner_steps=2, delay=delay)
    client.line.send(bridge.Granted(((0, 100),)))
    taken = []

    def serve():
        for version in range(1, 4):
            client.take_push()
            client.line.send(bridge.MayPush())
            client.offer(client.vectors.reference + version, version, pushes_seen=version)
            taken.append(client.expect(bridge.Taken))
            client.vectors.reference[:] = client.vectors.base

    server = threading.Thread(target=serve)
    server.start()
    for _ in range(6 + delay):
        site.take(4)
        site.step(tokens=1)
    server.join(30.0)
    assert [(t.version, t.delay_steps) for t in taken] == [(1, delay), (2, delay), (3, delay)]


@pytest.mark.timeout(30)
def test_a_strict_delay_is_measured_once_and_then_holds(bench):
    model = build()
    site, client = bench.join(model, strict=True, inner_steps=5)
    seed = 0
    for version in (1, 2, 3):
        while site._state.pushes < version:
            move(model, seed := seed + 1)
            site.step(tokens=1)
        client.take_push()
        client.line.send(bridge.MayPush())
        move(model, seed := seed + 1)
        assert not site.step(tokens=1)
        client.offer(client.vectors.snapshot, version=version, pushes_seen=version)
        move(model, seed := seed + 1)
        assert not site.step(tokens=1)
        move(model, seed := seed + 1)
        assert site.step(tokens=1)
        assert site.delay == 3
        assert client.expect(bridge.Taken).delay_steps == 3


def test_a_site_without_work_pushes_what_it_has(bench):
    site, client = bench.join(build(), inner_steps=100)
    client.line.send(bridge.Granted(((0, 4),)))
    samples = site.take(4, timeout_s=30.0)
    site.step(tokens=1, samples=samples)
    assert site.take(4, timeout_s=0.2) == []
    assert client.take_push().ranges == ((0, 4),)
    assert site.wait_s > 0


def test_a_lease_is_cut_into_batches(bench):
    site, client = bench.join(build())
    client.line.send(bridge.Granted(((0, 6), (10, 13))))
    taken = []
    while batch := site.take(4, timeout_s=30.0 if len(taken) < 3 else 0.05):
        taken.append(batch)
        if len(taken) == 3:
            site._state.window.steps = 0
    assert taken == [[(0, 4)], [(4, 6), (10, 12)], [(12, 13)]]


def test_its_rate_is_told_before_the_first_push(bench):
    site, client = bench.join(build(), inner_steps=100)
    for busy_s in (0.1, 0.2, 0.3):
        site.step(tokens=1, busy_s=busy_s)
    assert client.expect(bridge.Rate).step_s == pytest.approx(0.2)


@pytest.mark.parametrize("during", ["step", "take", "push", "poll"])
def test_a_client_that_dies_is_joined_again(bench, during):
    model = build()
    site, client = bench.join(model, inner_steps=3)
    move(model, 1)
    site.step(tokens=1, samples=[(0, 4)])
    if during == "push":
        site.step(tokens=1)
    client.close()
    fresh = bench.client(inner_steps=7, base=np.full(client.layout.size, 2, np.float32))
    {
        "step": lambda: site.step(tokens=1),
        "push": lambda: site.step(tokens=1),
        "take": lambda: site.take(4, timeout_s=0.1),
        "poll": site.poll,
    }[during]()
    fresh.ready()
    assert site.inner_steps == 7
    assert np.array_equal(flat(model, fresh.layout), np.full(client.layout.size, 2, np.float32))
    assert site._state.window.steps == 0
    fresh.line.send(bridge.Granted(((8, 12),)))
    assert site.take(4, timeout_s=30.0) == [(8, 12)]


def test_a_client_that_dies_while_a_strict_site_waits(bench):
    model = build()
    site, client = bench.join(model, strict=True, inner_steps=1, delay=0)
    done = threading.Thread(target=site.step, kwargs={"tokens": 1})
    done.start()
    client.take_push()
    client.close()
    fresh = bench.client(strict=True, inner_steps=1, delay=0)
    done.join(30.0)
    assert not done.is_alive()
    fresh.ready()
    assert fresh.joins == 1


def test_refusal_reaches_the_loop_with_its_remedy(bench):
    site, client = bench.join(build())
    client.line.send(bridge.Refused("the site builds another model", "compare `model`"))
    with pytest.raises(IsthmusError, match="another model") as caught:
        site.take(4, timeout_s=30.0)
    assert caught.value.hint == "compare `model`"


def test_stop_is_seen(bench):
    site, client = bench.join(build())
    client.line.send(bridge.Stop("budget"))
    assert site.take(4, timeout_s=30.0) == []
    assert site.stopping == "budget"


def test_leaving_pushes_what_is_left_and_waits_for_its_fate(bench):
    model = build()
    site, client = bench.join(model, inner_steps=100)
    move(model, 1)
    site.step(tokens=5, samples=[(0, 4)])
    leaving = threading.Thread(target=site.leave, args=("checkpoint",))
    leaving.start()
    assert client.take_push().tokens == 5
    assert client.expect(bridge.Leaving).reason == "checkpoint"
    assert leaving.is_alive()
    client.line.send(bridge.MayPush())
    leaving.join(30.0)
    assert not leaving.is_alive()


def test_leaving_when_the_client_is_gone_is_no_error(bench):
    site, client = bench.join(build(), inner_steps=100)
    site.step(tokens=5)
    client.close()
    site.leave("checkpoint", timeout_s=1.0)


@pytest.mark.parametrize(("stands_at", "reset"), [(4, True), (5, False)])
def test_moments_that_a_step_has_reset_are_not_reset_again_by_a_successor(stands_at, reset):
    """The rank 0 before it told of the reset with the order for step 5, and left no note of that."""
    talk = Talk("", "", SiteState(step=stands_at))
    entry = Entry(talk, cast(Any, None), cast(Any, None), SiteJob(), stand=None, client=None)
    note = SiteState(step=4, ranges=[(0, 16)], reset=True)
    assert entry._recall(note, [], Stand(step=stands_at, samples=((0, 8),), resume=True))
    assert talk.state.reset == reset
