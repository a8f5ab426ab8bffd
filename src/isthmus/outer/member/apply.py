"""`apply(state, event) -> state`: what each event changes at a site."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.outer.member.begun import issued
from isthmus.outer.member.hear import homeless, received, stopping
from isthmus.outer.member.state import (
    AnyEvent,
    BallotDurable,
    Encoded,
    Installed,
    Issued,
    Leaving,
    LinkDown,
    LinkUp,
    MemberState,
    Pending,
    Pushed,
    RanksAttached,
    RanksGone,
    Rate,
    Received,
    StopAsked,
    Taken,
    Tick,
    Uploaded,
    VersionArrived,
)
from isthmus.outer.messages import (
    Contribution,
    VersionReady,
)
from isthmus.outer.ranges import subtract, union

HELLO_RETRY_S = 5.0
"""Between two Hellos on a connection that does not answer."""


def apply(state: MemberState, event: AnyEvent) -> MemberState:
    return _HANDLERS[type(event)](state, event)


def _tick(state: MemberState, event: Tick) -> MemberState:
    state = replace(state, now_s=max(state.now_s, event.now_s))
    if not state.home and state.links and state.now_s - state.hello_s > HELLO_RETRY_S:
        return replace(state, hello_due=state.links, hello_s=state.now_s)
    return state


def _link_up(state: MemberState, event: LinkUp) -> MemberState:
    links = (*(link for link in state.links if link != event.server), event.server)
    if state.home == event.server:
        state = homeless(state)
    return replace(
        state,
        links=links,
        hello_due=(*state.hello_due, event.server),
        hello_s=state.now_s,
    )


def _link_down(state: MemberState, event: LinkDown) -> MemberState:
    def without(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name != event.server)

    if state.home == event.server:
        state = homeless(state)
    return replace(
        state,
        links=without(state.links),
        hello_due=without(state.hello_due),
        fence_due=without(state.fence_due),
        ballot=None if state.ballot_server == event.server else state.ballot,
    )


def _ballot_durable(state: MemberState, event: BallotDurable) -> MemberState:
    return replace(state, voted_epoch=event.epoch, voted_for=event.candidate)


def _version_arrived(state: MemberState, event: VersionArrived) -> MemberState:
    return replace(state, arrived=(*state.arrived, (event.version, event.base)), down_s=event.down_s)


def _installed(state: MemberState, event: Installed) -> MemberState:
    ready = state.installing
    if ready is None or ready.version != event.version:
        return state
    announced = tuple(a for a in state.announced if a.version > event.version)
    arrived = tuple(a for a in state.arrived if a[0] > event.version)
    state = replace(state, installing=None, announced=announced, arrived=arrived)
    if event.hash != ready.hash:
        return replace(state, version=-1, hash="", announced=(), refreshing=True, refresh_due=True)
    state = replace(
        state, version=ready.version, hash=event.hash, applied_due=True, refreshing=False, refresh_due=False
    )
    return _settle(state, ready)


def _settle(state: MemberState, ready: VersionReady) -> MemberState:
    """The contribution in flight is in this version: it is part of G now."""
    pending = state.pending
    if pending is None:
        return state
    own = pending.contribution
    if ready.merged.get(state.site, (0, 0)) < (own.incarnation, own.seq):
        return state
    return replace(state, pending=None, forget=(own.seq, False), may_push_due=True)


def _attached(state: MemberState, event: RanksAttached) -> MemberState:
    if event.hash and state.version < 0:
        state = replace(state, version=0, hash=event.hash)
    return replace(
        state,
        attached=True,
        start_due=state.terms is not None,
        told_window=0,
        pushes=0,
        taken=-1,
        offer=None,
        unsaid=state.work,
        may_push_due=False,
        left=False,
    )


def _gone(state: MemberState, event: RanksGone) -> MemberState:
    return replace(
        state,
        attached=False,
        offer=None,
        taken=-1,
        lost=union(state.lost, state.work),
        lost_due=bool(state.work) or state.lost_due,
        work=(),
        unsaid=(),
        rebase_due=False,
        reset_due=False,
        moments_due=False,
        wanted=-1,
        left=bool(state.stop),
    )


def _pushed(state: MemberState, event: Pushed) -> MemberState:
    assert state.pending is None, "one contribution in flight"
    if state.reset_due or (state.offer is not None and state.offer.reset):
        return _drop_push(state)
    contribution = Contribution(
        site=state.site,
        incarnation=state.incarnation,
        seq=state.seq + 1,
        admission=state.admission,
        base_version=state.taken,
        ranges=event.ranges,
        tokens=event.tokens,
        steps=event.steps,
        group_tokens=event.group_tokens,
    )
    passed = state.offer  # made before this push, so the ranks will not take it
    if passed is not None:
        state = replace(state, rebase_due=True)
    return replace(
        state,
        seq=contribution.seq,
        pending=Pending(contribution=contribution),
        work=subtract(state.work, event.ranges),
        pushes=state.pushes + 1,
        offer=None,
        may_push_due=False,
        step_s=event.step_s,
    )


def _drop_push(state: MemberState) -> MemberState:
    """The ranks pushed what they were about to be told to drop: its ranges are theirs still, its progress
    is void."""
    moments = state.moments_due or (state.offer is not None and state.offer.moments)
    return replace(
        state,
        pushes=state.pushes + 1,
        offer=None,
        reset_due=True,
        moments_due=moments,
        may_push_due=True,
    )


def _encoded(state: MemberState, event: Encoded) -> MemberState:
    pending = state.pending
    if pending is None or pending.contribution.seq != event.seq:
        return state
    contribution = replace(pending.contribution, norm=event.norm, fragments=event.fragments)
    return replace(state, pending=replace(pending, contribution=contribution, encoded=True))


def _taken(state: MemberState, event: Taken) -> MemberState:
    offer = state.offer
    if offer is None or offer.version != event.version:
        return state
    state = replace(state, offer=None, taken=event.version)
    return replace(state, unsaid=state.work) if offer.reset else state


def _uploaded(state: MemberState, event: Uploaded) -> MemberState:
    return replace(state, up_s=event.up_s)


def _rate(state: MemberState, event: Rate) -> MemberState:
    return replace(state, step_s=event.step_s)


def _leaving(state: MemberState, event: Leaving) -> MemberState:
    return replace(stopping(state, event.reason), left=True)


def _stop_asked(state: MemberState, event: StopAsked) -> MemberState:
    return stopping(state, event.reason)


_HANDLERS: dict[type[AnyEvent], Callable[[MemberState, Any], MemberState]] = {
    Tick: _tick,
    LinkUp: _link_up,
    LinkDown: _link_down,
    Received: received,
    RanksAttached: _attached,
    RanksGone: _gone,
    Pushed: _pushed,
    Encoded: _encoded,
    Uploaded: _uploaded,
    VersionArrived: _version_arrived,
    Installed: _installed,
    Taken: _taken,
    Rate: _rate,
    Leaving: _leaving,
    StopAsked: _stop_asked,
    BallotDurable: _ballot_durable,
    Issued: issued,
}
