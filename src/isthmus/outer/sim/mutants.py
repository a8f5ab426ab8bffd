"""Planted protocol bugs, which the simulator must find (`isthmus.sim.mutants`)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from msgspec.structs import replace

from isthmus.outer.member import hear as member_hear
from isthmus.outer.messages import VersionReady
from isthmus.outer.protocol import epoch, leases, records, rounds
from isthmus.outer.protocol import hear as server_hear
from isthmus.outer.protocol.records import Book, Merged, SiteRemoved
from isthmus.outer.protocol.state import Persisted
from isthmus.outer.ranges import covers, total, union
from isthmus.outer.sim import server, site
from isthmus.outer.sim.world import SimConfig
from isthmus.sim.mutants import Mutant

# the packages export functions of the same names as these modules
_server_apply = import_module("isthmus.outer.protocol.apply")
_member_apply = import_module("isthmus.outer.member.apply")
_member_plan = import_module("isthmus.outer.member.plan")


# ---- the wrong rules


def _acknowledge_before_sync(self: server.SimServer, batch: tuple[records.AnyRecord, ...]) -> None:
    payloads = [
        self.payloads[record.contribution.id] if isinstance(record, records.ContributionAccepted) else None
        for record in batch
    ]
    start = len(self.disk.entries)
    self.disk.entries += list(zip(batch, payloads, strict=True))

    def synced() -> None:
        self.disk.synced = max(self.disk.synced, start + len(batch))

    self.process.later(3.0, synced)
    self.feed(Persisted(batch))


def _no_deduplication(state: Any, event: Any) -> Any:
    contribution = event.contribution
    return server_hear._heard(state, event.site, contribution.incarnation, arrived=event)


def _decided_again(state: Any, arrived: Any) -> str:
    seen = arrived.contribution.seq <= state.book.sites[arrived.site].seq
    return "" if seen and arrived.finite else _right_discard(state, arrived)


_right_discard = rounds.why_discard


def _any_lease(state: Any, arrived: Any) -> str:
    return "" if arrived.finite else "quarantined"


def _anything_finite_or_not(state: Any, arrived: Any) -> str:
    held = state.book.sites[arrived.site].held
    return "" if covers(held, arrived.contribution.ranges) else "lease_lost"


def _any_epoch(state: Any, event: Any) -> Any:
    lower = getattr(event.message, "epoch", state.epoch) < state.epoch
    if lower and event.server == state.home:
        return member_hear._from_home(state, event.message)
    return _right_received(state, event)


_right_received = member_hear.received


def _merged_stays(book: Book, record: Merged) -> Book:
    return replace(records._merged(book, record), accepted=book.accepted)


def _keep_spent_error(self: site.SimSite, action: Any) -> None:
    error = self.error
    _right_forget(self, action)
    self.error = error


_right_forget = site.SimSite._forget


def _accepted_is_free(book: Book, record: records.ContributionAccepted) -> Book:
    book = records._accepted(book, record)
    return replace(book, free=union(book.free, record.contribution.ranges))


def _announce_anything(state: Any, message: VersionReady) -> Any:
    if message.base < 0:
        return replace(state, announced=(message,), arrived=())
    return _right_announce(state, message)


_right_announce = member_hear._announce


def _removed_takes_leases_along(book: Book, record: SiteRemoved) -> Book:
    return replace(records._removed(book, record), free=book.free)


def _granted_stays_free(book: Book, record: records.RangeGranted) -> Book:
    return replace(records._granted(book, record), free=book.free)


def _believe_any_hash(state: Any, event: Any) -> Any:
    ready = state.installing
    hash_ = event.hash if ready is None else ready.hash
    return _right_installed(state, type(event)(event.version, hash_))


_right_installed = _member_apply._installed


def _stop_before_merge(state: Any) -> bool:
    waiting = sum(total(contribution.ranges) for contribution in state.book.accepted)
    done = state.book.merged_samples + total(state.book.poisoned) + waiting
    return done >= state.config.terms.budget


def _offer_what_is_replaced(state: Any) -> Any:
    return _member_plan.offer_base(replace(state, announced=()))


def _without(rules: tuple[Callable[..., Any], ...], name: str) -> tuple[Callable[..., Any], ...]:
    rest = tuple(rule for rule in rules if rule.__name__ != name)
    assert len(rest) == len(rules) - 1, f"no rule {name}"
    return rest


def _settled_when_accepted(state: Any, incarnation: int, seq: int, fate: str) -> Any:
    state = _right_fate(state, incarnation, seq, fate)
    pending = state.pending
    if pending is None or not pending.accepted:
        return state
    return replace(state, pending=None, forget=(seq, False), may_push_due=True)


_right_fate = member_hear._fate


def _speak_unreplicated(state: Any) -> bool:
    return False


def _vote_always(state: Any, request: Any) -> bool:
    return True


def _silent_death(state: Any, event: Any) -> Any:
    return replace(_member_apply._gone(state, event), lost=(), lost_due=False)


_TWO_SERVERS = SimConfig(
    standby="yes", faults=("pause_server", "partition", "crash_server", "cut", "pause_client"), num_faults=8
)

MUTANTS = (
    Mutant(
        name="ack_before_sync",
        bug="acknowledges before the record is synced",
        swaps=((server.SimServer, "_persist", _acknowledge_before_sync),),
        config=SimConfig(faults=("crash_server", "pause_server")),
    ),
    Mutant(
        name="no_dedupe",
        bug="accepts a contribution again that was resent",
        swaps=(
            (_server_apply._HANDLERS, _server_apply.Arrived, _no_deduplication),
            (rounds, "why_discard", _decided_again),
        ),
        config=SimConfig(faults=("cut", "slow_link", "crash_server", "pause_server"), num_faults=10),
    ),
    Mutant(
        name="accept_lease_lost",
        bug="accepts contributions over ranges their site no longer holds",
        swaps=((rounds, "why_discard", _any_lease),),
    ),
    Mutant(
        name="accept_nan",
        bug="accepts non-finite and outlying contributions",
        swaps=((rounds, "why_discard", _anything_finite_or_not),),
        config=SimConfig(faults=("nan", "crash_server", "cut")),
    ),
    Mutant(
        name="ignore_epoch",
        bug="a site heeds a server of a lower epoch",
        swaps=((_member_apply._HANDLERS, _member_apply.Received, _any_epoch),),
        config=SimConfig(faults=("crash_server", "pause_client"), num_faults=10),
    ),
    Mutant(
        name="merge_twice",
        bug="a merged contribution stays among the accepted",
        swaps=((records._FOLDS, Merged, _merged_stays),),
    ),
    Mutant(
        name="keep_spent_error",
        bug="error feedback is not put back when a contribution is discarded",
        swaps=((site.SimSite, "_forget", _keep_spent_error),),
    ),
    Mutant(
        name="release_acknowledged",
        bug="ranges are leased again once acknowledged",
        swaps=((records._FOLDS, records.ContributionAccepted, _accepted_is_free),),
    ),
    Mutant(
        name="version_backwards",
        bug="a site takes up an older version that comes late",
        swaps=((member_hear, "_announce", _announce_anything),),
        config=SimConfig(faults=("bit_flip", "pause_client"), num_faults=14),
    ),
    Mutant(
        name="drop_free_ranges",
        bug="what a removed site held is forgotten",
        swaps=((records._FOLDS, SiteRemoved, _removed_takes_leases_along),),
    ),
    Mutant(
        name="grant_twice",
        bug="returned ranges stay free after they were leased again",
        swaps=((records._FOLDS, records.RangeGranted, _granted_stays_free),),
    ),
    Mutant(
        name="no_hash_check",
        bug="a version is taken up although its hash is wrong",
        swaps=((_member_apply._HANDLERS, _member_apply.Installed, _believe_any_hash),),
    ),
    Mutant(
        name="no_refresh",
        bug="a site that misses a version never asks for it",
        swaps=((_member_plan, "RULES", _without(_member_plan.RULES, "want_refresh")),),
        config=SimConfig(faults=("bit_flip", "cut"), num_faults=6),
    ),
    Mutant(
        name="offer_what_is_replaced",
        bug="the base of a version is offered after the next one was installed",
        swaps=(
            (_member_plan, "RULES", (*_without(_member_plan.RULES, "offer_base"), _offer_what_is_replaced)),
        ),
    ),
    Mutant(
        name="stop_before_merge",
        bug="the budget counts as done when its last samples are acknowledged",
        swaps=((leases, "budget_done", _stop_before_merge),),
    ),
    Mutant(
        name="pending_until_accepted",
        bug="a contribution leaves the base when it is acknowledged, not when it is merged",
        swaps=((member_hear, "_fate", _settled_when_accepted),),
    ),
    Mutant(
        name="forget_lost_ranges",
        bug="what ranks held when they died is not reported",
        swaps=((_member_apply._HANDLERS, _member_apply.RanksGone, _silent_death),),
        config=SimConfig(faults=("crash_ranks",)),
    ),
    Mutant(
        name="two_primaries",
        bug="the primary speaks before its standby has the records",
        swaps=((epoch, "silenced", _speak_unreplicated),),
        config=_TWO_SERVERS,
    ),
    Mutant(
        name="vote_twice",
        bug="a site votes for everybody who asks",
        swaps=((member_hear, "may_vote", _vote_always),),
        config=_TWO_SERVERS,
    ),
)
