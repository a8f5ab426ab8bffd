"""Contributions and versions: what is accepted, when it is merged and with which weights."""

import math
from statistics import median

from msgspec.structs import replace

from isthmus.outer.messages import Contribution
from isthmus.outer.protocol.records import AnyRecord, ContributionAccepted, ContributionDiscarded, Merged
from isthmus.outer.protocol.state import Arrived, Merge, ServerState
from isthmus.outer.ranges import covers

GRACE_SHARE = 0.8
MAD_FACTOR = 3.0
LATENESS_ENOUGH = 8
"""Arrivals after a quorum before their median says anything."""


def fates(state: ServerState) -> list[AnyRecord]:
    """Decides every complete contribution: accepted, or discarded with a reason."""
    records: list[AnyRecord] = []
    for name in state.book.members:
        arrived = state.live.peers[name].arrived
        if arrived is None:
            continue
        contribution = arrived.contribution
        reason = why_discard(state, arrived)
        if reason:
            records.append(
                ContributionDiscarded(
                    site=name,
                    incarnation=contribution.incarnation,
                    seq=contribution.seq,
                    ranges=contribution.ranges if _leased_now(state, contribution) else (),
                    reason=reason,
                )
            )
        else:
            measured = replace(contribution, norm=arrived.norm)  # the server's own figure, not the site's
            records.append(ContributionAccepted(contribution=measured))
    return records


def _leased_now(state: ServerState, contribution: Contribution) -> bool:
    return contribution.admission == state.book.sites[contribution.site].admission


def why_discard(state: ServerState, arrived: Arrived) -> str:
    """'' or the reason."""
    book, config, contribution = state.book, state.config, arrived.contribution
    if not _leased_now(state, contribution) or not covers(book.sites[arrived.site].held, contribution.ranges):
        return "lease_lost"
    if not arrived.finite or not math.isfinite(arrived.norm):
        return "quarantined"
    limit = config.outlier_factor * book.norm_median()
    if limit > 0 and len(book.norms) >= config.outlier_after and arrived.norm > limit:
        return "quarantined"
    if book.version - contribution.base_version > config.staleness_max:
        return "stale"
    return ""


def expected(state: ServerState) -> tuple[str, ...]:
    """Members whose contribution a full quorum needs: those with work in hand, and those that have
    contributed."""
    there = {contribution.site for contribution in state.book.accepted}
    return tuple(name for name in state.book.members if name in there or state.book.sites[name].held)


def window_s(state: ServerState) -> float:
    fastest = max((peer.step_rate for peer in state.live.peers.values() if peer.welcomed), default=0.0)
    return state.config.terms.inner_steps / fastest if fastest > 0 else state.config.site_timeout_s


def grace_s(state: ServerState) -> float:
    """How long to wait for the others after the quorum: min(0.8 slack, median lateness + 3 MAD), at
    first the whole slack."""
    live = state.live
    transfer_s = max((peer.up_s + peer.down_s for peer in live.peers.values() if peer.welcomed), default=0.0)
    longest_s = max(0.0, GRACE_SHARE * (window_s(state) - transfer_s))
    if len(live.lateness_s) < LATENESS_ENOUGH:
        return longest_s
    middle_s = median(live.lateness_s)
    spread_s = median(abs(late_s - middle_s) for late_s in live.lateness_s)
    return min(longest_s, middle_s + MAD_FACTOR * spread_s)


def ready(state: ServerState) -> bool:
    """Whether what is accepted should be merged now."""
    live, book, config = state.live, state.book, state.config
    if not book.accepted or live.merging is not None:
        return False
    there = {contribution.site for contribution in book.accepted}
    all_in = all(name in there for name in expected(state))
    if config.terms.mode == "strict":
        return all_in and (bool(live.stopping) or set(book.members) == set(config.sites))
    if all_in:
        return True
    return live.quorum_s is not None and live.now_s >= live.quorum_s + grace_s(state)


def merge(state: ServerState) -> Merge | None:
    """The next merge, contributions in sorted order of site, incarnation, seq."""
    if not ready(state):
        return None
    book = state.book
    contributions = tuple(sorted(book.accepted, key=_id))
    staleness = tuple(book.version - contribution.base_version for contribution in contributions)
    there = {contribution.site for contribution in contributions}
    live = there.union(expected(state))
    return Merge(
        version=book.version + 1,
        contributions=contributions,
        weights=tuple(weight(c.tokens, s) for c, s in zip(contributions, staleness, strict=True)),
        staleness=staleness,
        share=len(there) / len(live),
        full=len(there) == len(live),
    )


def _id(contribution: Contribution) -> tuple[str, int, int]:
    return contribution.id


def weight(tokens: int, staleness: int) -> float:
    """w_s = tokens / sqrt(1 + staleness)."""
    return tokens / math.sqrt(1 + staleness)


def merged(state: ServerState) -> list[AnyRecord]:
    """The merge that was computed, as a record; published only after it is durable."""
    merging, result = state.live.merging, state.live.merged_hash
    if merging is None or result is None:
        return []
    return [
        Merged(
            version=merging.version,
            contributions=tuple(contribution.id for contribution in merging.contributions),
            weights=merging.weights,
            share=merging.share,
            full=merging.full,
            hash=result,
        )
    ]
