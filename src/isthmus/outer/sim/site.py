"""Thin executor of the member machine, and ranks that train on the simulated model."""

from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.outer import member
from isthmus.outer.member import state
from isthmus.outer.messages import (
    Commit,
    Fragment,
    VersionReady,
    VoteRequest,
    contribution_key,
    version_key,
)
from isthmus.outer.ranges import Ranges, normal, take, total
from isthmus.outer.sim import numbers
from isthmus.outer.sim.network import Link, Process
from isthmus.outer.sim.server import FRAGMENTS, PLAN_BOUND, halves
from isthmus.sim.invariant import InvariantError

if TYPE_CHECKING:
    from isthmus.outer.sim.world import World

LINGER_S = 1.0
"""A client that leaves waits for its last words to be on their way."""
CLIENT_TICK_S = 2.5


class SimSite:
    """The client process of one site. What survives a crash of it: its incarnation count and its ballot."""

    def __init__(self, world: "World", name: str, step_s: float):
        self.world, self.name = world, name
        self.process = Process(world.time, name)
        self.links: dict[str, Link] = {}
        self.incarnation = 0
        self.ballot = (0, "")
        self.rejoin_s = -1.0
        self.poison_next = False
        self.flip_next = False
        self.ranks = SimRanks(self, step_s)

    def boot(self) -> None:
        self.process.spawn()
        self.incarnation += 1
        self.state = state.MemberState(
            site=self.name,
            incarnation=self.incarnation,
            voted_epoch=self.ballot[0],
            voted_for=self.ballot[1],
            now_s=self.world.time.now_s,
        )
        self.published = numbers.zeros()
        self.reference = numbers.zeros()
        self.snapshot = numbers.zeros()
        self.base = numbers.zeros()
        self.error = numbers.zeros()
        self.old_error = numbers.zeros()
        self.sent: dict[int, numbers.Vector] = {}
        self.upload: dict[int, numbers.Vector] = {}
        self.halves: dict[str, numbers.Vector] = {}
        self.driving = False
        self.newest = -1
        self.ranks.boot()
        self._tick()

    def crash(self) -> None:
        self.process.kill()
        self.ranks.process.kill()
        for link in self.links.values():
            link.forget(self)
            link.cut()

    def crash_ranks(self) -> None:
        if self.process.alive and self.ranks.process.alive:
            self.ranks.process.kill()
            self.feed(state.RanksGone())

    def _tick(self) -> None:
        self.feed(state.Tick(self.world.time.now_s))
        self.process.later(CLIENT_TICK_S, self._tick)

    # ---- the machine

    def feed(self, event: state.AnyEvent) -> None:
        self.state = member.apply(self.state, event)
        if isinstance(event, state.Installed) and self.state.version == event.version:
            self.world.checks.installed(self.name, self.newest, event.version, self.published)
            self.newest = event.version
        if self.driving:
            return
        self.driving = True
        for _ in range(PLAN_BOUND):
            actions = member.plan(self.state)
            if not actions or not self.process.alive:
                self.driving = False
                return
            self.state = member.apply(self.state, state.Issued(tuple(actions)))
            for action in actions:
                self._execute(action)
        raise InvariantError(f"{self.name} does not settle after {event}")

    def _execute(self, action: Any) -> None:
        match action:
            case state.Send():
                self.links[action.server].send(self, ("msg", action.message))
            case state.Encode():
                self._encode(action.seq)
            case state.Upload():
                self._upload(action)
            case state.Forget():
                self._forget(action)
            case state.Install():
                self._install(action.ready)
            case state.OfferBase():
                if action.version != self.state.version:
                    raise InvariantError(f"{self.name} offers {self.state.version} as {action.version}")
                self.world.checks.offered(self.name, self.incarnation, action.version, action.minus)
                minus = self.sent[action.minus] if action.minus is not None else 0.0
                self.base = self.published - minus
                self.ranks.hear(action)
            case state.PersistBallot():
                self.process.later(self.world.sync_s(), self._ballot, action)
            case state.Exit() | state.TellRefused():
                self._exit(action)
            case _:
                self.ranks.hear(action)

    def _ballot(self, action: state.PersistBallot) -> None:
        self.ballot = (action.epoch, action.candidate)
        self.feed(state.BallotDurable(action.epoch, action.candidate))

    def _exit(self, action: Any) -> None:
        if action.reason == "budget":
            self.world.checks.ended(self.name, self.state.version)
        self.ranks.process.kill()
        self.process.later(LINGER_S, self._gone, action.reason)

    def _gone(self, reason: str) -> None:
        self.crash()
        self.world.left(self, reason)

    def _encode(self, seq: int) -> None:
        pending = self.state.pending
        assert pending is not None
        delta = self.reference - self.snapshot
        self.world.checks.pushed(self.name, delta, pending.contribution.ranges)
        self.reference = self.snapshot
        whole = delta + self.error
        sent = numbers.quantise(whole, numbers.UP_STEP)
        self.old_error, self.error = self.error, whole - sent
        self.sent[seq] = self.upload[seq] = sent
        self.world.checks.residual[(self.name, self.incarnation, seq)] = self.error
        if self.poison_next:
            self.poison_next = False
            enough = any(
                server.serving and len(server.state.book.norms) >= 5 for server in self.world.servers
            )
            self.upload[seq] = sent + 1e6 if enough and seq % 2 else sent * np.nan
        keys = [contribution_key(self.name, self.incarnation, seq, index) for index in range(FRAGMENTS)]
        fragments = tuple(Fragment(key, 24, "") for key in keys)
        self.feed(state.Encoded(seq, float(abs(sent[0])), fragments))

    def _upload(self, action: state.Upload) -> None:
        link, contribution = self.links[action.server], action.contribution
        vector = self.upload[contribution.seq]
        link.send(self, ("msg", Commit(contribution=contribution)))
        for fragment, half in zip(contribution.fragments, halves(vector), strict=True):
            link.send(self, ("blob", fragment.key, half), bulk=True)
        self.feed(state.Uploaded(contribution.seq, link.delay_s * 4))

    def _forget(self, action: state.Forget) -> None:
        del self.sent[action.seq], self.upload[action.seq]
        if action.discarded:
            self.error = self.old_error
            self.world.checks.discarded.add((self.name, self.incarnation, action.seq))

    # ---- versions

    def _install(self, ready: VersionReady) -> None:
        parts = [self.halves.pop(version_key(ready, index), None) for index in range(FRAGMENTS)]
        if any(part is None for part in parts):
            raise InvariantError(f"{self.name} installs version {ready.version} without its bytes")
        vector = np.concatenate([part for part in parts if part is not None])
        self.published = vector.copy() if ready.base < 0 else self.published + vector
        if self.flip_next:
            self.flip_next = False
            self.published = self.published + 1.0
        result = numbers.digest(self.published)
        self.world.checks.refreshes += result != ready.hash
        self.feed(state.Installed(ready.version, result))

    def _maybe_arrived(self, ready: VersionReady) -> None:
        if all(version_key(ready, index) in self.halves for index in range(FRAGMENTS)):
            self.feed(state.VersionArrived(ready.version, ready.base, 0.3))

    # ---- the network

    def on_up(self, link: Link) -> None:
        self.feed(state.LinkUp(link.other(self).process.name))

    def on_down(self, link: Link) -> None:
        self.feed(state.LinkDown(link.other(self).process.name))

    def on_payload(self, link: Link, payload: Any) -> None:
        kind, *rest = payload
        if kind == "blob":
            key, half = rest
            self.halves[key] = half
            for ready in self.state.announced:
                if key in (version_key(ready, 0), version_key(ready, 1)):
                    self._maybe_arrived(ready)
            return
        (message,) = rest
        before = self.state
        self.feed(state.Received(link.other(self).process.name, message))
        stale = getattr(message, "epoch", before.epoch) < before.epoch
        if stale and not isinstance(message, VoteRequest):
            self.world.checks.fenced(before, self.state)
        if isinstance(message, VersionReady) and message in self.state.announced:
            self._maybe_arrived(message)


class SimRanks:
    """All ranks of a site as one loop: train a step, look at a boundary, push when a window is full."""

    def __init__(self, client: SimSite, step_s: float):
        self.client, self.step_s = client, step_s
        self.process = Process(client.world.time, f"{client.name}/ranks")

    def boot(self) -> None:
        self.process.spawn()
        self.local = numbers.zeros()
        self.queue: Ranges = ()
        self.offer: state.OfferBase | None = None
        self.may_push = True
        self.started = False
        self.strict = False
        self.delay = -1
        self.window = 1
        self.pushes = self.since_push = 0
        self.took = True
        """strict: the version of the last push is taken up."""
        self.stop = ""
        self.left = False
        self.waiting = True
        self._clear()
        known = self.client.incarnation % 2 == 0
        self.client.feed(state.RanksAttached(numbers.digest(numbers.zeros()) if known else ""))

    def _clear(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.steps = 0

    def hear(self, order: Any) -> None:
        match order:
            case state.TellStart():
                self.started, self.strict = True, order.terms.mode == "strict"
                self.may_push = order.may_push
                self.delay = order.terms.delay
            case state.GiveWork():
                self.queue = normal([*self.queue, *order.ranges])
            case state.TellPace():
                self.window = order.inner_steps
            case state.TellMayPush():
                self.may_push = True
            case state.OfferBase():
                if order.pushes_seen == self.pushes:
                    self.offer = order
            case state.TellStop():
                self.stop = order.reason
        if self.waiting and self.process.alive:
            self.waiting = False
            self.process.later(0.001, self.boundary)

    def boundary(self) -> None:
        """One look at everything between two steps; ends in a step, in waiting, or in leaving."""
        if self.left:
            return
        self._take_up()
        if self.steps and self.may_push and (self.steps >= self.window or not self.queue or self.stop):
            self._push()
            self._take_up()
        stuck = bool(self.steps) and not self.may_push
        if self.stop and not stuck:
            self.left = True
            self.client.feed(state.Leaving(self.stop))
            return
        full = self.strict and self.steps >= self.window
        late = self.strict and not self.took and self.since_push >= self.delay
        if not self.queue or full or late or self.stop or not self.started:
            self.waiting = self.offer is None or not self._may_take(self.offer)
            if not self.waiting:
                self.process.later(0.001, self.boundary)
            return
        batch, self.queue = take(self.queue, self.client.state.batch_size)
        jitter = 0.9 + 0.2 * self.process.time.random.random()
        self.process.later(self.step_s * jitter, self._step, batch)

    def _step(self, batch: Ranges) -> None:
        numbers.train(self.local, batch)
        self.ranges.extend(batch)
        self.steps += 1
        self.since_push += 1
        if self.pushes == 0 and self.steps == 2:
            self.client.feed(state.Rate(self.step_s))
        self.boundary()

    def _take_up(self) -> None:
        offer = self.offer
        if offer is None:
            return
        if not self._may_take(offer):
            return
        self.offer = None
        base = self.client.base
        if offer.reset:
            self.local = base.copy()
            self.queue = ()
            self._clear()
            self.client.world.checks.resets += 1
        else:
            self.local = (self.local - self.client.reference) + base
        self.client.reference = base
        self.took = True
        self.client.feed(state.Taken(offer.version))

    def _may_take(self, offer: state.OfferBase) -> bool:
        """strict: exactly `delay` steps after the push, but a reset at once; without work there is nothing
        to spoil."""
        early = self.took or self.since_push < self.delay
        return not (self.strict and self.queue and early and not offer.reset)

    def _push(self) -> None:
        ranges = normal(self.ranges)
        steps, tokens = self.steps, total(ranges) * 8
        self._clear()
        self.may_push, self.took, self.offer = False, False, None
        self.pushes += 1
        self.since_push = 0
        self.client.snapshot = self.local.copy()
        self.client.feed(state.Pushed(ranges, tokens, (), steps, self.step_s))
