"""Paths in, diagnosis out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose import candidates, facts, flight, ranks, sources, timeline, verdict
from isthmus.faults.diagnose.lines import Line
from isthmus.faults.diagnose.scan import Tell, match, scan
from isthmus.faults.diagnosis import Diagnosis


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """A diagnosis, and what it was made from."""

    diagnosis: Diagnosis
    num_files: int
    num_lines: int
    num_bytes: int
    first: dict[int, tuple[float | None, str]]
    """Rank -> when it first told of trouble, and how."""
    problems: tuple[str, ...]


def diagnose(paths: Sequence[Path], entries: Sequence[Entry], tell: Tell | None = None) -> Examined:
    """Raises NotFoundError for a path that is not there, InputError where nothing can be read."""
    given = sources.find(paths)
    scanned = scan(given.parts, entries, tell)
    problems = (*given.problems, *(each.problem for each in scanned if each.problem))
    if not (given.dumps or given.told or any(each.num_bytes for each in scanned)):
        raise sources.unreadable(paths, problems)
    lines = ranks.fill([*timeline.merge(scanned), *match(given.told, entries)])
    known = facts.gather(lines, (rank for each in scanned for rank in each.ranks))
    by_id: Mapping[str, Entry] = {entry.id: entry for entry in entries}
    in_time = timeline.ordered(lines)
    case = verdict.Case(
        candidates=candidates.collect(in_time, known, by_id, timeline.outlived(in_time, scanned)),
        facts=known,
        entries=by_id,
        flight=flight.analyse(given.dumps) if given.dumps else None,
        dumps={dump.rank: dump.where for dump in given.dumps},
    )
    return Examined(
        diagnosis=verdict.judge(case),
        num_files=len({part.path for part in given.parts}) + len(given.dumps),
        num_lines=sum(each.num_lines for each in scanned),
        num_bytes=sum(each.num_bytes for each in scanned),
        first=_first(in_time),
        problems=problems,
    )


def _first(lines: Sequence[Line]) -> dict[int, tuple[float | None, str]]:
    told: dict[int, tuple[float | None, str]] = {}
    for line in lines:
        if line.rank is not None and line.entries:
            told.setdefault(line.rank, (line.wall_s, line.text.strip()[:120]))
    return told
