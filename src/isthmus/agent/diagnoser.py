"""A first diagnosis, while a fault is being healed: from the last words of a process, the way it ended, and
what detectors saw. `isthmus diagnose` takes all logs of all ranks and its time.
"""

import signal
from collections.abc import Iterable

from msgspec.structs import replace

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.find import LEAST_SPECIFIC, Signatures
from isthmus.faults.catalogue.load import load_catalogue
from isthmus.faults.diagnosis import Diagnosis, Evidence, Suspicion
from isthmus.faults.finding import Finding

_NAMED, _GENERIC, _SEEN = 0.8, 0.5, 0.9
"""Confidence: in an entry that its own words hit, in one that says only that something failed, in what a
detector saw for itself."""


class Diagnoser:
    """Owns the catalogue's signatures; made once, which takes a quarter of a second."""

    def __init__(self) -> None:
        self.signatures = Signatures(load_catalogue().entries)

    def of_exit(self, rank: int, code: int | None, words: str, log: str) -> Diagnosis:
        """Of a process that ended.

        Args:
            words: the end of what it said.
            log: where that is, for the evidence.
        """
        ending = _ending(code)
        lines = [*words.splitlines(), ending]
        hits = [(line, entry) for line in lines for entry in self.signatures.hits(line)[:1]]
        best = next((hit for hit in hits if not is_weak(hit[1])), hits[0] if hits else None)
        if best is None:
            return self._diagnosis(rank, None, 0.0, [(ending, log)])
        confidence = _GENERIC if is_weak(best[1]) else _NAMED
        return self._diagnosis(rank, best[1], confidence, dict.fromkeys([(best[0], log), (ending, log)]))

    def of_finding(self, finding: Finding) -> Diagnosis:
        """Of what a detector saw."""
        hits = self.signatures.hits(finding.what)
        where = "pages of the ranks"
        if hits and hits[0].kind == finding.kind:
            return self._diagnosis(finding.rank, hits[0], _SEEN, [(finding.what, where)])
        suspicion = Suspicion(
            kind=finding.kind,
            rank=finding.rank,
            place=finding.place,
            action="restart_rank" if finding.lasting else "alert_human",
            confidence=_SEEN,
        )
        evidence = (Evidence(where=where, text=finding.what, rank=finding.rank),)
        return Diagnosis(best=suspicion, cause=finding.what, verify="", evidence=evidence)

    def of_line(self, rank: int | None, entry: Entry, line: str, where: str, node: str) -> Diagnosis:
        """Of something that a rank or the node's kernel has printed."""
        found = self._diagnosis(rank, entry, _NAMED, [(line, where)])
        return replace(found, best=replace(found.best, place="" if rank is not None else node))

    def _diagnosis(
        self, rank: int | None, entry: Entry | None, confidence: float, lines: Iterable[tuple[str, str]]
    ) -> Diagnosis:
        name = entry.id if entry else ""
        evidence = tuple(
            Evidence(where=where, text=text.strip(), rank=rank, entry=name if index == 0 else "")
            for index, (text, where) in enumerate(lines)
        )
        suspicion = Suspicion(
            kind=entry.kind if entry else "crash",
            rank=rank,
            entry=name,
            action=entry.action if entry else "restart_rank",
            confidence=confidence,
        )
        cause = entry.cause if entry else f"{evidence[-1].text}, without a word that the catalogue knows"
        return Diagnosis(best=suspicion, cause=cause, verify=entry.verify if entry else "", evidence=evidence)


def is_weak(entry: Entry) -> bool:
    """Says that something failed, not what: an effect, a signal, any error of the program."""
    return entry.victim or entry.id in LEAST_SPECIFIC or entry.id.startswith("PROC-SIG")


def _ending(code: int | None) -> str:
    """As the launchers of torch put it, which the catalogue knows."""
    if code is None:
        return "the process is gone, its exit code is not known"
    if code < 0:
        return f"exitcode: {code}, died with Signal {-code} ({signal.Signals(-code).name})"
    return f"exitcode: {code}"
