"""`plan(state) -> actions`: named small rules, each says its thing once (`Issued` marks it said).

The executor's loop is

    state = apply(state, event)
    while actions := plan(state):
        state = apply(state, Issued(tuple(actions)))
        ... execute them in order, feed back Encoded, Uploaded, Installed, BallotDurable when they are done
"""

import math
from collections.abc import Callable

from isthmus.outer.member.state import (
    AnyAction,
    Encode,
    Exit,
    Forget,
    GiveWork,
    Install,
    MemberState,
    OfferBase,
    PersistBallot,
    Send,
    TellMayPush,
    TellPace,
    TellRefused,
    TellStart,
    TellStop,
    Upload,
)
from isthmus.outer.messages import (
    Applied,
    Fenced,
    Goodbye,
    Heartbeat,
    Hello,
    Lost,
    VoteGranted,
    WantRefresh,
    WantWork,
)
from isthmus.outer.ranges import total

WINDOWS_HELD = 3
"""Windows of work a site holds at least, the one under way included."""
DRAIN_S = 60.0
"""A site that leaves waits this long for the fate of its last contribution."""


def plan(state: MemberState) -> list[AnyAction]:
    if state.exited:
        return []
    if state.refused is not None:
        return [TellRefused(state.refused.reason, state.refused.hint)]
    actions: list[AnyAction] = []
    for rule in RULES:
        action = rule(state)
        if action is not None:
            actions.append(action)
    return actions


# ---- servers and epochs


def hello(state: MemberState) -> AnyAction | None:
    if not state.hello_due or not state.attached:
        return None
    message = Hello(
        site=state.site,
        incarnation=state.incarnation,
        session=state.session + 1,
        identity=state.identity,
        epoch=state.epoch,
        version=state.version,
        version_hash=state.hash,
        lost=state.lost,
    )
    return Send(state.hello_due[0], message)


def fence(state: MemberState) -> AnyAction | None:
    return Send(state.fence_due[0], Fenced(epoch=state.epoch)) if state.fence_due else None


def vote(state: MemberState) -> AnyAction | None:
    ballot = state.ballot
    if ballot is None:
        return None
    if ballot.epoch == state.voted_epoch and ballot.candidate == state.voted_for:
        return Send(state.ballot_server, VoteGranted(epoch=ballot.epoch, candidate=ballot.candidate))
    if state.ballot_begun:
        return None
    return PersistBallot(ballot.epoch, ballot.candidate)


def step_rate(state: MemberState) -> float:
    return 1.0 / state.step_s if state.step_s > 0 else 0.0


def heartbeat(state: MemberState) -> AnyAction | None:
    if not state.home or state.terms is None or state.now_s < state.heartbeat_s + state.terms.heartbeat_s:
        return None
    message = Heartbeat(
        incarnation=state.incarnation,
        epoch=state.epoch,
        step_rate=step_rate(state),
        up_s=state.up_s,
        down_s=state.down_s,
    )
    return Send(state.home, message)


# ---- leases


def work_target(state: MemberState) -> int:
    """Samples to hold: enough for the windows ahead and for the server's absence."""
    assert state.terms is not None
    steps = max(
        WINDOWS_HELD * state.window,
        math.ceil(step_rate(state) * state.terms.outage_reserve_s) + state.window,
    )
    return steps * state.batch_size


def want_work(state: MemberState) -> AnyAction | None:
    if (
        not state.home
        or state.terms is None
        or state.terms.mode == "strict"
        or state.stop
        or not state.attached
    ):
        return None
    if state.wanted == state.grants:
        return None
    target = work_target(state)
    missing = target - total(state.work)
    if missing < max(state.batch_size, target // 8):
        return None
    message = WantWork(
        incarnation=state.incarnation,
        grants=state.grants,
        samples=missing,
        step_rate=step_rate(state),
        up_s=state.up_s,
        down_s=state.down_s,
    )
    return Send(state.home, message)


def report_lost(state: MemberState) -> AnyAction | None:
    if not state.lost_due or not state.home:
        return None
    return Send(state.home, Lost(incarnation=state.incarnation, admission=state.admission, ranges=state.lost))


# ---- contributions


def forget(state: MemberState) -> AnyAction | None:
    return Forget(*state.forget) if state.forget else None


def encode(state: MemberState) -> AnyAction | None:
    pending = state.pending
    return Encode(pending.contribution.seq) if pending and not pending.encoding else None


def upload(state: MemberState) -> AnyAction | None:
    pending = state.pending
    if pending is None or not state.home or not pending.encoded or pending.uploaded or pending.accepted:
        return None
    return Upload(state.home, pending.contribution)


# ---- versions


def install(state: MemberState) -> AnyAction | None:
    if state.installing is not None or not state.announced:
        return None
    ready = state.announced[0]
    return Install(ready) if (ready.version, ready.base) in state.arrived else None


def confirm(state: MemberState) -> AnyAction | None:
    if not state.applied_due or not state.home:
        return None
    return Send(state.home, Applied(incarnation=state.incarnation, version=state.version))


def want_refresh(state: MemberState) -> AnyAction | None:
    if not state.refresh_due or not state.home:
        return None
    return Send(state.home, WantRefresh(incarnation=state.incarnation))


# ---- ranks


def tell_start(state: MemberState) -> AnyAction | None:
    if not state.start_due or state.terms is None:
        return None
    return TellStart(state.terms, may_push=state.pending is None)


def offer_base(state: MemberState) -> AnyAction | None:
    """A newer version, or the same one after a discard. One offer at a time, and none of what an install that
    goes before it replaces.
    """
    pending = state.pending
    installs = state.installing is not None or install(state) is not None
    busy = state.offer is not None or installs or (pending and not pending.encoded)
    if not state.attached or state.terms is None or state.version < 0 or busy or state.forget:
        return None
    first = state.taken < 0
    if not (first or state.version > state.taken or state.rebase_due or state.reset_due):
        return None
    return OfferBase(
        version=state.version,
        minus=pending.contribution.seq if pending else None,
        pushes_seen=state.pushes,
        reset=first or state.reset_due,
        moments=first or state.moments_due,
    )


def give_work(state: MemberState) -> AnyAction | None:
    """What is new. Nothing while the ranks are about to drop all they hold: then it is given again anyway."""
    resetting = state.taken < 0 or state.reset_due or (state.offer is not None and state.offer.reset)
    if not state.unsaid or not state.attached or resetting:
        return None
    return GiveWork(state.unsaid)


def tell_pace(state: MemberState) -> AnyAction | None:
    if not state.attached or state.terms is None or state.told_window == state.window:
        return None
    return TellPace(state.window)


def tell_may_push(state: MemberState) -> AnyAction | None:
    return TellMayPush() if state.may_push_due and state.attached else None


# ---- the end


def tell_stop(state: MemberState) -> AnyAction | None:
    if not state.stop or state.stop_told or not state.attached or state.left:
        return None
    if state.stop == "budget" and (state.announced or state.installing or state.taken < state.version):
        return None  # the last version first
    return TellStop(state.stop)


def leave(state: MemberState) -> AnyAction | None:
    """When the last contribution is safe with the server, or has waited too long."""
    if not state.stop:
        return None
    safe = state.left and (state.pending is None or state.pending.accepted)
    if state.goodbye_sent or (not state.home and state.now_s > state.stop_s + DRAIN_S):
        return Exit(state.stop)
    if state.home and (safe or state.now_s > state.stop_s + DRAIN_S):
        return Send(state.home, Goodbye(incarnation=state.incarnation, reason=state.stop))
    return None


RULES: tuple[Callable[[MemberState], AnyAction | None], ...] = (
    fence, vote, hello, forget, encode, upload, install, confirm, want_refresh, tell_start,
    tell_pace, offer_base, give_work, tell_may_push, report_lost, want_work, heartbeat, tell_stop, leave,
)  # fmt: skip
