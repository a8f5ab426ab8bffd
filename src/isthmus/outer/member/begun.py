"""What was begun is marked, so that it is planned once."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from isthmus.outer.member.state import (
    Encode,
    Exit,
    Forget,
    GiveWork,
    Install,
    Issued,
    MemberState,
    Offer,
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
    Message,
    VoteGranted,
    WantRefresh,
    WantWork,
)
from isthmus.outer.ranges import subtract


def issued(state: MemberState, event: Issued) -> MemberState:
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
