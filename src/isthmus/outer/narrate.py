"""What a durable record of the server means to people: record -> journal events."""

from collections.abc import Iterator

from isthmus.journal import events
from isthmus.outer.protocol import records
from isthmus.outer.protocol.records import AnyRecord, Book


def narrate(record: AnyRecord, before: Book, after: Book) -> Iterator[events.AnyEvent]:
    """`before` and `after`: the book around the write that this record was part of."""
    match record:
        case records.StandbyAttached(name=name):
            yield events.Note(level="info", text=f"{name} holds the whole log and stands by")
        case records.ServerStarted(standby="", voted=True) if before.standby:
            yield events.Note(level="warning", text=f"the sites voted to go on without {before.standby}")
        case records.SiteAdmitted(site=site, incarnation=incarnation):
            yield events.SiteJoined(site=site, incarnation=incarnation, version=after.version)
        case records.SiteRemoved(site=site, reason=reason):
            yield events.SiteLeft(site=site, reason=reason)
            yield from _discarded(site, before.sites[site].held, reason)
        case records.RangeGranted(site=site, ranges=ranges):
            yield from _leased(site, ranges)
        case records.RoundGranted(grants=grants):
            for site, ranges in grants.items():
                yield from _leased(site, ranges)
        case records.RangesReturned(site=site, ranges=ranges, reason=reason):
            yield from _discarded(site, ranges, reason)
        case records.ContributionDiscarded(site=site, seq=seq, ranges=ranges, reason=reason):
            if reason == "quarantined":
                yield events.Quarantined(site=site, seq=seq, reason="not finite, or an outlier")
            yield from _discarded(site, ranges, reason)
        case records.Merged():
            yield from _merged(record, before)


def _leased(site: str, ranges: records.Ranges) -> Iterator[events.AnyEvent]:
    for start, end in ranges:
        yield events.RangeLeased(site=site, start=start, end=end)


def _discarded(site: str, ranges: records.Ranges, reason: str) -> Iterator[events.AnyEvent]:
    for start, end in ranges:
        yield events.RangeDiscarded(site=site, start=start, end=end, reason=reason)


def _merged(record: records.Merged, before: Book) -> Iterator[events.AnyEvent]:
    by_id = {contribution.id: contribution for contribution in before.accepted}
    merged = [by_id[key] for key in record.contributions]
    for contribution in merged:
        for start, end in contribution.ranges:
            yield events.RangeMerged(site=contribution.site, start=start, end=end, version=record.version)
    yield events.VersionPublished(
        version=record.version,
        server_epoch=before.epoch,
        sites=[contribution.site for contribution in merged],
        weights=list(record.weights),
        tokens=sum(contribution.tokens for contribution in merged),
        full_quorum=record.full,
        wait_s=0.0,
    )
