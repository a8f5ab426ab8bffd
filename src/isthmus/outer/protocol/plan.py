"""`plan(state) -> actions`: named small rules, the first that has something to do wins.

Order matters: who may speak at all; what is owed to sites (promises already durable); what to decide next;
what to compute. The executor's loop is

    state = apply(state, event)
    while actions := plan(state):
        state = apply(state, Issued(tuple(actions)))
        ... execute each, feed back Persisted / PersistFailed / MergeDone when they are done (at once or
        later)
"""

from collections.abc import Callable

from isthmus.outer.messages import (
    Accepted,
    Discarded,
    Grant,
    Message,
    Refused,
    Rejoin,
    Stop,
    VersionReady,
    Welcome,
)
from isthmus.outer.protocol import epoch, leases, rounds
from isthmus.outer.protocol.records import AnyRecord, SiteAdmitted
from isthmus.outer.protocol.state import AnyAction, Finish, Peer, Persist, Publish, Send, ServerState

VERSIONS_AHEAD = 2
"""Versions sent to a site beyond the one it has confirmed."""


def plan(state: ServerState) -> list[AnyAction]:
    live = state.live
    if live.stepped_down or live.finished or live.persisting:
        return []
    if fenced := epoch.fence(state):
        return fenced
    if records := epoch.start(state):
        return _persist(state, records)
    if epoch.silenced(state):
        return epoch.replicate(state) or epoch.ask_detach(state) or _persist(state, epoch.detach(state))
    return (
        epoch.replicate(state)
        or _publish(state)
        or _sends(state)
        or _persist(state, _decide(state))
        or _merge(state)
        or _finish(state)
    )


def _persist(state: ServerState, records: list[AnyRecord]) -> list[AnyAction]:
    if not records or state.live.now_s < state.live.retry_after_s:
        return []
    return [Persist(tuple(records))]


def _decide(state: ServerState) -> list[AnyRecord]:
    for rule in DECISIONS:
        if records := rule(state):
            return records
    return []


def _publish(state: ServerState) -> list[AnyAction]:
    book = state.book
    if state.live.published >= book.version:
        return []
    return [Publish(book.version, book.epoch)]


def _merge(state: ServerState) -> list[AnyAction]:
    merge = rounds.merge(state)
    return [] if merge is None else [merge]


def _finish(state: ServerState) -> list[AnyAction]:
    book = state.book
    if book.members or book.accepted or state.live.merging is not None:
        return []
    reason = _stop_reason(state)
    return [Finish(reason)] if reason else []


def _stop_reason(state: ServerState) -> str:
    return "budget" if leases.budget_done(state) else state.live.stopping


# ---- decisions that become records


def admit(state: ServerState) -> list[AnyRecord]:
    for name, peer in state.live.peers.items():
        if peer.hello is None or refusal(state, name) is not None:
            continue
        site = state.book.sites.get(name)
        if site is None or not site.member or site.incarnation != peer.hello.incarnation:
            return [SiteAdmitted(site=name, incarnation=peer.hello.incarnation)]
    return []


def refusal(state: ServerState, name: str) -> Refused | None:
    """Why this site's Hello cannot be answered with a Welcome."""
    config, hello = state.config, state.live.peers[name].hello
    assert hello is not None
    here, there = config.identity, hello.identity

    def refused(reason: str, hint: str) -> Refused:
        return Refused(epoch=state.book.epoch, incarnation=hello.incarnation, reason=reason, hint=hint)

    if hello.site != name:
        return refused(
            f"certificate of {name} used by {hello.site}", "use the certificate made for this site"
        )
    if config.sites and name not in config.sites:
        return refused(f"{name} is not in the fleet", "add it to fleet.yaml of the server and start it again")
    if there.code_version != here.code_version:
        return refused(
            f"code version {there.code_version or '?'}, the server runs {here.code_version or '?'}",
            "install the same isthmus version on every site",
        )
    if there.model_hash != here.model_hash or there.layout_hash != here.layout_hash:
        return refused("the site builds another model", "compare `model` and `train.seed` in run.yaml")
    if there.data_hash != here.data_hash:
        return refused("the site prepared other data", "compare `data` in run.yaml and the source files")
    known = state.book.sites.get(name)
    if known is not None and hello.incarnation < known.incarnation:
        return _outdated(state, hello.incarnation)
    return None


def _outdated(state: ServerState, incarnation: int) -> Refused:
    return Refused(
        epoch=state.book.epoch,
        incarnation=incarnation,
        reason="a newer client of this site has joined",
        hint="stop the older one",
    )


DECISIONS: tuple[Callable[[ServerState], list[AnyRecord]], ...] = (
    rounds.merged,
    rounds.fates,
    admit,
    leases.returns,
    leases.grants,
    epoch.attach,
)


# ---- what is owed to the sites


def _sends(state: ServerState) -> list[AnyAction]:
    actions: list[AnyAction] = []
    for name, peer in state.live.peers.items():
        if not peer.up:
            continue
        if peer.outdated:
            actions.append(Send(name, _outdated(state, peer.outdated)))
        if peer.rejoin_due:
            actions.append(Send(name, Rejoin(epoch=state.book.epoch)))
        elif peer.hello is not None:
            message = answer(state, name)
            if message is not None:
                actions.append(Send(name, message))
        elif peer.welcomed:
            for rule in PROMISES:
                if (message := rule(state, name, peer)) is not None:
                    actions.append(Send(name, message))
    return actions


def answer(state: ServerState, name: str) -> Message | None:
    refused = refusal(state, name)
    if refused is not None:
        return refused
    hello = state.live.peers[name].hello
    site = state.book.sites.get(name)
    if hello is None or site is None or not site.member or site.incarnation != hello.incarnation:
        return None
    return Welcome(
        epoch=state.book.epoch,
        incarnation=site.incarnation,
        session=hello.session,
        admission=site.admission,
        terms=state.config.terms,
        batch_size=state.config.batch_size(name),
        version=state.book.version,
        window=leases.window(state, name),
        grants=site.grants,
        held=site.held,
        seq=site.seq,
        fate=site.fate,
    )


def tell_fate(state: ServerState, name: str, peer: Peer) -> Message | None:
    site = state.book.sites[name]
    if not peer.fate_due or not site.fate:
        return None
    if site.fate == "accepted":
        return Accepted(epoch=state.book.epoch, incarnation=site.incarnation, seq=site.seq)
    return Discarded(epoch=state.book.epoch, incarnation=site.incarnation, seq=site.seq, reason=site.fate)


def give_work(state: ServerState, name: str, peer: Peer) -> Message | None:
    site = state.book.sites[name]
    if peer.grants_sent >= site.grants:
        return None
    return Grant(
        epoch=state.book.epoch,
        number=site.grants,
        ranges=site.last_grant,
        window=leases.window(state, name),
    )


def give_version(state: ServerState, name: str, peer: Peer) -> Message | None:
    """The next delta of an unbroken chain, or the newest version in full."""
    book, live = state.book, state.live
    if peer.sent_version == book.version and not peer.refresh:
        return None
    if not book.history:
        first = peer.refresh or peer.sent_version < 0
        return _version(state, name, base=-1, number=book.version) if first else None
    newest = book.version
    oldest = max(live.delta_floor, book.history[0].version - 1)
    if peer.refresh or peer.sent_version < oldest:
        return _version(state, name, base=-1, number=newest)
    if peer.sent_version >= newest or peer.sent_version - peer.applied_version >= VERSIONS_AHEAD:
        return None
    return _version(state, name, base=peer.sent_version, number=peer.sent_version + 1)


def _version(state: ServerState, name: str, base: int, number: int) -> VersionReady:
    book = state.book
    facts = next((facts for facts in book.history if facts.version == number), None)
    return VersionReady(
        epoch=book.epoch,
        version=number,
        base=base,
        hash=facts.hash if facts else book.hash,
        contributors=facts.contributors if facts else (),
        merged=facts.merged if facts else {},
        window=leases.window(state, name),
    )


def tell_stop(state: ServerState, name: str, peer: Peer) -> Message | None:
    if peer.stop_sent or peer.sent_version < state.book.version:
        return None
    reason = _stop_reason(state)
    return Stop(epoch=state.book.epoch, reason=reason) if reason else None


PROMISES: tuple[Callable[[ServerState, str, Peer], Message | None], ...] = (
    tell_fate,
    give_work,
    give_version,
    tell_stop,
)
