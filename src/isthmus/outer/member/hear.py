"""What a server's message changes at a site. Messages may come twice or late."""

from msgspec.structs import replace

from isthmus.outer.member.state import (
    MemberState,
    Received,
)
from isthmus.outer.messages import (
    Accepted,
    Discarded,
    Grant,
    Message,
    Refused,
    Rejoin,
    Stop,
    VersionReady,
    VoteRequest,
    Welcome,
)
from isthmus.outer.ranges import Ranges, intersect, subtract, union


def homeless(state: MemberState) -> MemberState:
    return replace(state, home="", announced=(), arrived=(), refresh_due=False, wanted=-1)


def received(state: MemberState, event: Received) -> MemberState:
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
        case Stop():
            return stopping(state, message.reason)
        case _:
            return state


def _rejoin(state: MemberState, server: str, message: Rejoin) -> MemberState:
    """What the server knows of this site may be another thing by now: nothing counts before its Welcome."""
    state = homeless(state) if server == state.home else _seen(state, message.epoch)
    due = () if server in state.hello_due else (server,)
    return replace(state, hello_due=(*state.hello_due, *due))


def stopping(state: MemberState, reason: str) -> MemberState:
    if state.stop:
        return state
    return replace(state, stop=reason, stop_s=state.now_s, left=state.left or not state.attached)


def _seen(state: MemberState, epoch: int) -> MemberState:
    """A server speaks in this epoch. A new one must welcome us before anything else counts."""
    if epoch <= state.epoch:
        return state
    return replace(homeless(state), epoch=epoch)


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


def _welcome(state: MemberState, server: str, message: Welcome) -> MemberState:
    if message.incarnation != state.incarnation or state.asked.get(server) != message.session:
        return state
    state = homeless(state)
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
    pending = state.pending
    in_flight = pending.contribution.ranges if pending and pending.contribution.admission == admission else ()
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
