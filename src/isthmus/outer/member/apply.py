"""`apply(state, event) -> state`: what each event changes. Messages from servers may come twice or late."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.outer.member.state import (
    AnyEvent,
    BallotDurable,
    Encode,
    Encoded,
    Exit,
    Forget,
    GiveWork,
    Install,
    Installed,
    Issued,
    Leaving,
    LinkDown,
    LinkUp,
    MemberState,
    Offer,
    OfferBase,
    Pending,
    PersistBallot,
    Pushed,
    RanksAttached,
    RanksGone,
    Rate,
    Received,
    Send,
    StopAsked,
    Taken,
    TellMayPush,
    TellPace,
    TellRefused,
    TellStart,
    TellStop,
    Tick,
    Upload,
    Uploaded,
    UploadInit,
    VersionArrived,
)
from isthmus.outer.messages import (
    Accepted,
    Applied,
    Contribution,
    Discarded,
    Fenced,
    Goodbye,
    Grant,
    Heartbeat,
    Hello,
    InitWanted,
    Lost,
    Message,
    Refused,
    Rejoin,
    Stop,
    VersionReady,
    VoteGranted,
    VoteRequest,
    WantRefresh,
    WantWork,
    Welcome,
)
from isthmus.outer.ranges import Ranges, intersect, subtract, union

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
        state = _homeless(state)
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
        state = _homeless(state)
    return replace(
        state,
        links=without(state.links),
        hello_due=without(state.hello_due),
        fence_due=without(state.fence_due),
        ballot=None if state.ballot_server == event.server else state.ballot,
    )


def _homeless(state: MemberState) -> MemberState:
    return replace(state, home="", announced=(), arrived=(), refresh_due=False, init_due=False, wanted=-1)


def _received(state: MemberState, event: Received) -> MemberState:
    message, server = event.message, event.server
    if isinstance(message, VoteRequest):
        return _vote(state, server, message)
    if message.epoch < state.epoch:  # type: ignore[attr-defined]
        return replace(state, fence_due=(*state.fence_due, server))
    match message:
        case Welcome():
            return _welcome(state, server, message)
        case Rejoin():
            return _rejoin(state, server, message)
        case Refused():
            ours = message.incarnation in (0, state.incarnation)
            return replace(state, refused=message) if ours else state
    if server != state.home:
        return state
    # the welcomed server may move on to a new epoch by itself, when it detaches its standby
    return _from_home(replace(state, epoch=message.epoch), message)  # type: ignore[attr-defined]


def _from_home(state: MemberState, message: Message) -> MemberState:
    match message:
        case Grant():
            return _grant(state, message)
        case Accepted():
            return _fate(state, message.incarnation, message.seq, "accepted")
        case Discarded():
            return _fate(state, message.incarnation, message.seq, message.reason)
        case VersionReady():
            return _announce(state, message)
        case InitWanted():
            return replace(state, init_due=True)
        case Stop():
            return _stopping(state, message.reason)
        case _:
            return state


def _rejoin(state: MemberState, server: str, message: Rejoin) -> MemberState:
    """What the server knows of this site may be another thing by now: nothing counts before its Welcome."""
    state = _homeless(state) if server == state.home else _seen(state, message.epoch)
    due = () if server in state.hello_due else (server,)
    return replace(state, hello_due=(*state.hello_due, *due))


def _stopping(state: MemberState, reason: str) -> MemberState:
    if state.stop:
        return state
    return replace(state, stop=reason, stop_s=state.now_s, left=state.left or not state.attached)


def _seen(state: MemberState, epoch: int) -> MemberState:
    """A server speaks in this epoch. A new one must welcome us before anything else counts."""
    if epoch <= state.epoch:
        return state
    return replace(_homeless(state), epoch=epoch)


def _vote(state: MemberState, server: str, request: VoteRequest) -> MemberState:
    if state.ballot is not None:
        return state  # one at a time; candidates ask again
    if not may_vote(state, request):
        return (
            replace(state, fence_due=(*state.fence_due, server)) if request.log_epoch < state.epoch else state
        )
    return replace(state, ballot=request, ballot_server=server, ballot_begun=False)


def may_vote(state: MemberState, request: VoteRequest) -> bool:
    """One vote per epoch, and none for a server whose log may lack what a later epoch promised."""
    if request.epoch == state.voted_epoch:
        return request.candidate == state.voted_for and request.epoch > state.epoch
    newest = max(state.epoch, state.voted_epoch)
    return request.epoch > newest and request.log_epoch >= newest


def _ballot_durable(state: MemberState, event: BallotDurable) -> MemberState:
    return replace(state, voted_epoch=event.epoch, voted_for=event.candidate)


def _welcome(state: MemberState, server: str, message: Welcome) -> MemberState:
    if message.incarnation != state.incarnation or state.asked.get(server) != message.session:
        return state
    state = _homeless(state)
    pending = state.pending
    state = replace(
        state,
        home=server,
        asked={name: session for name, session in state.asked.items() if name != server},
        epoch=message.epoch,
        start_due=state.start_due or (state.terms is None and state.attached),
        terms=message.terms,
        batch_size=message.batch_size,
        window=message.window,
        grants=message.grants,
        pending=replace(pending, uploaded=False) if pending else None,
        heartbeat_s=state.now_s,
        refresh_due=state.refreshing,
        applied_due=False,
    )
    if message.fate:
        state = _fate(state, message.incarnation, message.seq, message.fate)
    return _reconcile(state, message.admission, message.held)


def _reconcile(state: MemberState, admission: int, held: Ranges) -> MemberState:
    """Leases as the server has them. Work that is no longer ours must not be pushed: the ranks start over."""
    lost = intersect(state.lost, held)
    same = admission == state.admission
    in_flight = state.pending.contribution.ranges if state.pending and same else ()
    fresh = subtract(subtract(subtract(held, state.work), lost), in_flight)
    kept = intersect(state.work, held)
    gone = kept != state.work or (admission != state.admission and bool(state.work))
    return replace(
        state,
        admission=admission,
        lost=lost,
        lost_due=bool(lost),  # the Hello this answers may be older than the loss
        work=union(kept, fresh),
        unsaid=union(intersect(state.unsaid, kept), fresh),
        reset_due=state.reset_due or (gone and state.attached),
    )


def _grant(state: MemberState, message: Grant) -> MemberState:
    state = replace(state, window=message.window)
    if message.number <= state.grants:
        return state
    return replace(
        state,
        grants=message.number,
        work=union(state.work, message.ranges),
        unsaid=union(state.unsaid, subtract(message.ranges, state.work)),
        lost=subtract(state.lost, message.ranges),
    )


def _fate(state: MemberState, incarnation: int, seq: int, fate: str) -> MemberState:
    pending = state.pending
    if pending is None or incarnation != state.incarnation or seq != pending.contribution.seq:
        return state
    if fate == "accepted":
        state = replace(state, pending=replace(pending, accepted=True))
        return replace(state, may_push_due=True) if state.left else state
    if pending.accepted:
        return state
    bad = fate == "quarantined"
    return replace(
        state,
        pending=None,
        forget=(seq, True),
        may_push_due=True,
        rebase_due=True,
        reset_due=state.reset_due or bad,
        moments_due=state.moments_due or bad,
    )


def _announce(state: MemberState, message: VersionReady) -> MemberState:
    state = replace(state, window=message.window)
    full = message.base < 0
    if message.version < state.version or (
        message.version == state.version and not (full and state.refreshing)
    ):
        return state
    if any(a.version == message.version and a.base == message.base for a in state.announced):
        return state
    newest = state.announced[-1].version if state.announced else state.version
    if not full and message.base != newest:
        return replace(state, refreshing=True, refresh_due=True)
    if full:
        return replace(state, announced=(message,), arrived=())
    return replace(state, announced=(*state.announced, message))


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
    return replace(_stopping(state, event.reason), left=True)


def _stop_asked(state: MemberState, event: StopAsked) -> MemberState:
    return _stopping(state, event.reason)


def _issued(state: MemberState, event: Issued) -> MemberState:
    for action in event.actions:
        state = _begun(state, action)
    return state


def _begun(state: MemberState, action: Any) -> MemberState:
    mark = _MARKS.get(type(action))
    return state if mark is None else mark(state, action)


def _offered(state: MemberState, action: OfferBase) -> MemberState:
    offer = Offer(action.version, action.reset, action.moments)
    return replace(state, offer=offer, rebase_due=False, reset_due=False, moments_due=False)


def _marked_pending(state: MemberState, **changes: bool) -> MemberState:
    assert state.pending is not None
    return replace(state, pending=replace(state.pending, **changes))


_MARKS: dict[type, Callable[[MemberState, Any], MemberState]] = {
    Send: lambda state, action: _sent(state, action.server, action.message),
    GiveWork: lambda state, action: replace(state, unsaid=subtract(state.unsaid, action.ranges)),
    OfferBase: _offered,
    Encode: lambda state, action: _marked_pending(state, encoding=True),
    Upload: lambda state, action: _marked_pending(state, uploaded=True),
    PersistBallot: lambda state, action: replace(state, ballot_begun=True),
    UploadInit: lambda state, action: replace(state, init_due=False),
    Forget: lambda state, action: replace(state, forget=None),
    Install: lambda state, action: replace(state, installing=action.ready),
    TellStart: lambda state, action: replace(state, start_due=False),
    TellPace: lambda state, action: replace(state, told_window=action.inner_steps),
    TellMayPush: lambda state, action: replace(state, may_push_due=False),
    TellStop: lambda state, action: replace(state, stop_told=True),
    TellRefused: lambda state, action: replace(state, exited=True),
    Exit: lambda state, action: replace(state, exited=True),
}


def _sent(state: MemberState, server: str, message: Message) -> MemberState:
    match message:
        case Hello():
            rest = tuple(name for name in state.hello_due if name != server)
            asked = {**state.asked, server: message.session}
            return replace(state, hello_due=rest, session=message.session, asked=asked)
        case Fenced():
            return replace(state, fence_due=())
        case VoteGranted():
            return replace(state, ballot=None)
        case Heartbeat():
            return replace(state, heartbeat_s=state.now_s)
        case WantWork():
            return replace(state, wanted=message.grants)
        case Lost():
            return replace(state, lost_due=False)
        case Applied():
            return replace(state, applied_due=False)
        case WantRefresh():
            return replace(state, refresh_due=False)
        case Goodbye():
            return replace(state, goodbye_sent=True)
        case _:
            return state


_HANDLERS: dict[type[AnyEvent], Callable[[MemberState, Any], MemberState]] = {
    Tick: _tick,
    LinkUp: _link_up,
    LinkDown: _link_down,
    Received: _received,
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
    Issued: _issued,
}
