"""Which sample ranges go to whom: grants in both modes, and what comes back."""

import math

from isthmus.outer.protocol.records import AnyRecord, RangeGranted, RangesReturned, RoundGranted, SiteRemoved
from isthmus.outer.protocol.state import ServerState
from isthmus.outer.ranges import Ranges, intersect, take, total, union

TAIL_PARTS = 8
"""At the end of the budget a lease is still this part of a window, so that asking does not cost more than
working.
"""
ROUNDS_AHEAD = 2
"""strict: windows a site holds, the one it works on included."""


def window(state: ServerState, site: str) -> int:
    """H_s, inner steps of this site between two pushes: equal wall-clock windows in elastic mode."""
    terms = state.config.terms
    if terms.mode == "strict":
        return terms.inner_steps
    rates = {name: peer.step_rate for name, peer in state.live.peers.items() if peer.welcomed}
    fastest = max(rates.values(), default=0.0)
    own = rates.get(site, 0.0)
    if fastest <= 0.0 or own <= 0.0:
        return terms.inner_steps
    return max(1, round(terms.inner_steps * own / fastest))


def unleased(state: ServerState) -> Ranges:
    """What may be granted now: returned ranges first, then new ones."""
    book, budget = state.book, state.config.terms.budget
    rest = ((book.cursor, budget),) if book.cursor < budget else ()
    return (*book.free, *rest)


def budget_done(state: ServerState) -> bool:
    book, budget = state.book, state.config.terms.budget
    done = book.merged_samples + (total(book.poisoned) if book.poisoned else 0)
    return done >= budget > 0


def grants(state: ServerState) -> list[AnyRecord]:
    if state.live.stopping:
        return []
    return _strict(state) if state.config.terms.mode == "strict" else _elastic(state)


def _elastic(state: ServerState) -> list[AnyRecord]:
    left: Ranges = ()
    for name in state.book.members:
        peer = state.live.peers.get(name)
        site = state.book.sites[name]
        if peer is None or peer.want is None or not peer.welcomed or peer.want.grants != site.grants:
            continue
        left = left or unleased(state)
        if not left:
            return []
        batch = state.config.batch_size(name)
        held = total(site.held)
        size = min(peer.want.samples, _fair_cap(state, name) - held) // batch * batch
        if size <= 0 and held <= batch:
            size = batch * max(1, window(state, name) // TAIL_PARTS)
        if size > 0:
            return [RangeGranted(site=name, ranges=_sorted_take(left, size))]
    return []


def _sorted_take(left: Ranges, size: int) -> Ranges:
    taken, _ = take(left, size)
    return union(taken, ())


def _fair_cap(state: ServerState, site: str) -> int:
    """What a site may hold: half of its fair share of what is left, so that the sites finish together."""
    left = total(unleased(state)) + sum(total(other.held) for other in state.book.sites.values())
    rates = {
        name: peer.step_rate * state.config.batch_size(name)
        for name, peer in state.live.peers.items()
        if peer.welcomed
    }
    known = [rate for rate in rates.values() if rate > 0]
    usual = sum(known) / len(known) if known else 1.0  # for those that have not told theirs yet
    fleet = sum(rate or usual for rate in rates.values())
    share = (rates.get(site, 0.0) or usual) / fleet if fleet else 1.0
    return math.ceil(left * share / 2)


def _strict(state: ServerState) -> list[AnyRecord]:
    book, config = state.book, state.config
    if set(book.members) != set(config.sites) or not all(_present(state, name) for name in config.sites):
        return []
    left = unleased(state)
    if not left:
        return []
    idle = not book.accepted and not any(site.held for site in book.sites.values())  # all was poisoned
    if idle or book.rounds < book.version + ROUNDS_AHEAD:
        return [RoundGranted(grants=_round(state, left))]
    for name in config.sites:  # a site that lost its window gets another, from what came back
        site = book.sites[name]
        waiting = any(contribution.site == name for contribution in book.accepted)
        if not site.held and not waiting and book.free:
            batch = config.batch_size(name)
            return [RangeGranted(site=name, ranges=_sorted_take(left, config.terms.inner_steps * batch))]
    return []


def _present(state: ServerState, name: str) -> bool:
    peer = state.live.peers.get(name)
    return peer is not None and peer.welcomed


def _round(state: ServerState, left: Ranges) -> dict[str, Ranges]:
    """One window per site in sorted order; less for each when the budget ends."""
    sites = sorted(state.config.sites)
    share = total(left) / len(sites)
    cut: dict[str, Ranges] = {}
    for name in sites:
        batch = state.config.batch_size(name)
        size = min(state.config.terms.inner_steps * batch, math.ceil(share / batch) * batch)
        taken, left = take(left, size)
        cut[name] = union(taken, ())
    return cut


def returns(state: ServerState) -> list[AnyRecord]:
    """Ranges that sites report lost, and sites that left or fell silent. At most one change of membership
    at a time, so that any two majorities of the sites meet although a standby may lag by one write."""
    live, book = state.live, state.book
    for name in book.members:
        site, peer = book.sites[name], live.peers[name]
        if peer.lost and (back := intersect(site.held, peer.lost)):
            return [RangesReturned(site=name, ranges=back, reason="lost")]
        if peer.goodbye and peer.arrived is None:
            return [SiteRemoved(site=name, reason="left")]
        if live.now_s - peer.heard_s > state.config.site_timeout_s:
            return [SiteRemoved(site=name, reason="timeout")]
    return []
