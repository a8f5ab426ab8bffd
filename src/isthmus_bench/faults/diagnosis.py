"""Diagnoses against labelled logs and flight records, beside what a list of expressions alone finds."""

import csv
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from isthmus.errors import NotFoundError
from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.load import load_catalogue
from isthmus.faults.diagnose.run import diagnose
from isthmus.faults.diagnosis import Diagnosis
from isthmus_bench.document import Result
from isthmus_bench.faults import large

LOGS = "ISTHMUS_FAULT_LOGS"
"""Folder with labels.csv, logs/ and, if there are any, flight_recorder/<set>/."""
GB = 10**9
_NAMED = re.compile(r"(\d+)\s*(?:\(|$)")
_FIX_FIRST = frozenset(("config", "user_code", "ckpt_mismatch", "version_mismatch", "permission"))
_AGAIN = frozenset(("retry", "restart_rank", "replace_node"))
_BROKEN = frozenset(("device_lost", "ecc", "disk_fail", "host_fail"))


class Label(NamedTuple):
    file: str
    kind: str
    rank: int | None
    """None where no number names the culprit."""


class Judged(NamedTuple):
    label: Label
    diagnosis: Diagnosis
    first: str | None
    """Class of the entry that is hit first."""
    not_victim: str | None
    """Class of the first one that is usually no victim."""

    @property
    def unsafe(self) -> bool:
        action = self.diagnosis.best.action
        return (self.label.kind in _FIX_FIRST and action in _AGAIN) or (
            self.label.kind in _BROKEN and action == "restart_rank"
        )


def run(quick: bool) -> list[Result]:
    """Seconds, and a minute for 1 GB of logs; `quick` takes 50 MB of it. Labelled logs are needed for all but
    the speed.
    """
    entries = load_catalogue().entries
    results = [speed(entries, GB // 20 if quick else GB)]
    folder = os.environ.get(LOGS)
    if not folder:
        return results
    judged = judge(Path(folder), entries)
    records = Path(folder) / "flight_recorder"
    return [*accuracy(judged), *(flights(records, entries) if records.is_dir() else []), *results]


def read_labels(folder: Path) -> list[Label]:
    """Raises NotFoundError where there are none."""
    path = folder / "labels.csv"
    if not path.exists():
        raise NotFoundError("there are no labelled logs", where=str(path), hint=f"set {LOGS} to their folder")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Label(
            row["file"],
            row["root_cause_class"],
            int(named[1]) if (named := _NAMED.match(row["fault_rank_or_node"])) else None,
        )
        for row in rows
    ]


def judge(folder: Path, entries: Sequence[Entry]) -> list[Judged]:
    """Each log by itself, as if it were all there is."""
    judged = []
    for label in read_labels(folder):
        path = folder / "logs" / label.file
        first, not_victim = baseline(path.read_text(errors="replace"), entries)
        judged.append(Judged(label, diagnose([path], entries).diagnosis, first, not_victim))
    return judged


def baseline(text: str, entries: Sequence[Entry]) -> tuple[str | None, str | None]:
    """Classes by the catalogue's expressions alone: of the first hit, and of the first that is no victim."""
    hits = []
    for entry in entries:
        found = [match.start() for each in entry.signature if (match := re.search(each, text, re.MULTILINE))]
        if found:
            hits.append((min(found), entry.victim, entry.kind))
    hits.sort(key=lambda hit: hit[0])
    own = [hit for hit in hits if not hit[1]] or hits
    return (hits[0][2], own[0][2]) if hits else (None, None)


def accuracy(judged: Sequence[Judged]) -> list[Result]:
    right = [each.diagnosis.best.kind == each.label.kind for each in judged]
    ranked = [each for each in judged if each.label.rank is not None]
    named = [each.diagnosis.best.rank == each.label.rank for each in ranked]
    unsafe = [each.label.file for each in judged if each.unsafe]
    wrong = [
        f"{each.label.file} ({each.label.kind}: {each.diagnosis.best.kind})"
        for each, ok in zip(judged, right, strict=True)
        if not ok
    ]
    peers = {
        "expressions, first hit": sum(each.first == each.label.kind for each in judged) / len(judged),
        "expressions, first that is no victim": sum(each.not_victim == each.label.kind for each in judged)
        / len(judged),
    }
    missed = [
        f"{each.label.file} (rank {each.label.rank}: {each.diagnosis.best.rank})"
        for each, ok in zip(ranked, named, strict=True)
        if not ok
    ]
    return [
        Result(
            "faults.diagnosis.class", sum(right) / len(judged), "ratio", peers,
            f"of {len(judged)} logs; wrong: {', '.join(wrong) or 'none'}",
        ),
        Result(
            "faults.diagnosis.rank", sum(named) / max(1, len(ranked)), "ratio", {},
            f"of {len(ranked)} logs whose culprit is known; wrong: {', '.join(missed) or 'none'}",
        ),
        Result("faults.diagnosis.unsafe", len(unsafe), "count", {}, ", ".join(unsafe)),
    ]  # fmt: skip


def flights(folder: Path, entries: Sequence[Entry]) -> list[Result]:
    """Sets of dumps whose culprits are known: those that are named, all of them and nobody else."""
    told, found, exact = 0, 0, 0
    sets = sorted(path.parent for path in folder.glob("*/fault_injection.log"))
    for each in sets:
        culprits = set(
            map(int, re.findall(r"^Rank (\d+),", (each / "fault_injection.log").read_text(), re.M))
        )
        named = set(diagnose(sorted(each.glob("_dump_*")), entries).diagnosis.culprits)
        told += len(culprits)
        found += len(culprits & named)
        exact += culprits == named
    return [
        Result(
            "faults.diagnosis.flight", found / max(1, told), "ratio", {"NVRx 0.5 (its own record)": 7 / 8},
            f"{found} of {told} culprits in {len(sets)} sets, {exact} sets without a wrong name",
        )
    ]  # fmt: skip


def speed(entries: Sequence[Entry], num_bytes: int) -> Result:
    """Seconds for a gigabyte, the fault inside named rightly or not at all counted."""
    with tempfile.TemporaryDirectory() as folder:
        written = large.write(Path(folder), num_bytes)
        started = time.perf_counter()
        diagnosis = diagnose([Path(folder)], entries).diagnosis
        elapsed_s = time.perf_counter() - started
    best = diagnosis.best
    right = (best.kind, best.rank) == ("ecc", large.CULPRIT)
    note = (
        f"{written / 1e9:.2f} GB of {large.NUM_RANKS} ranks in {elapsed_s:.1f} s; "
        f"found {best.kind} of rank {best.rank}"
    )
    value = elapsed_s / (written / GB) if right else float("inf")
    return Result("faults.diagnosis.gb_s", value, "s", {}, note + ("" if right else ", WRONG"))
