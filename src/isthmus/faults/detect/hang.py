"""Nobody goes on: who is it that the others wait for?

A rank is blamed if it has written nothing for too long (`patience`), does not wait in a collective (unless
it could not come out of one), is behind or level with all others that do not wait (`wait_graph`), and is not
at something that may take long.
How long is too long depends on what its process does: one that sleeps gets no further by itself; one that
computes may, and gets the longer time, stretched by the share of a processor it was given; one that is
stopped is known at once. On a node with fewer processors than before for those that want one, silence is
allowed to last as many times longer.
"""

from isthmus.faults.detect.patience import HangSettings, Patience
from isthmus.faults.detect.quiet import Quiet
from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.wait_graph import Mismatch, WaitGraph, wait_graph
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageView, Phase
from isthmus.faults.terms import FaultClass

_LOOK_FROM_S, _STOPPED_S, _MISMATCH_S, _ALL_WAIT_S = 0.5, 1.0, 1.0, 10.0
_BASELINE = 1 / 1200
"""Per look: the contention that a run is used to, over about a minute."""
_WORDS = {
    "stopped": "is stopped (state T)",
    "asleep": "sleeps and uses no processor",
    "blocked": "is blocked in the system (state D)",
    "starved": "wants to run and gets no processor",
    "busy": "computes without getting on",
    "gone": "has ended",
    "unknown": "writes nothing",
}


class HangDetector:
    def __init__(self, standing: Standing, settings: HangSettings | None = None):
        self._settings = settings or HangSettings()
        self._standing = standing
        self._patience = Patience(self._settings)
        self._quiet: dict[int, Quiet] = {}
        self._usual: dict[str, float] = {}
        self._absent_s: dict[int, float] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        here = {
            rank: view
            for rank, view in readings.views.items()
            if rank in readings.ranks and not view.left and view.phase != Phase.DONE
        }
        self._patience.learn(here, readings.steps)
        moved = self._look(now_s, here, readings)
        self._note_contention(readings, moved)
        if not here:
            return []
        found = self._stopped(now_s, here) or self._missing(now_s, here, readings)
        if found or self._group_s() < _LOOK_FROM_S:
            return found
        graph = wait_graph(here)
        return (
            self._desync(now_s, graph, here)
            or self._blame(now_s, graph, here, readings)
            or self._all_wait(now_s, graph, here, readings)
        )

    def _look(self, now_s: float, here: dict[int, PageView], readings: Readings) -> bool:
        """Takes in who wrote; what was found of those is over. Whether anyone wrote."""
        moved = False
        for rank in [rank for rank in self._quiet if rank not in here]:
            del self._quiet[rank]
            self._standing.end(("hang", rank))
        for rank, view in here.items():
            quiet = self._quiet.setdefault(rank, Quiet())
            if quiet.look(now_s, view, readings.processes.get(rank)):
                moved = True
                self._standing.end(("hang", rank))
        if moved or not here:
            self._standing.end(("hang", None))
        return moved

    def _note_contention(self, readings: Readings, moved: bool) -> None:
        for name, node in readings.nodes.items():
            usual = self._usual.setdefault(name, node.contention)
            if moved:
                self._usual[name] += _BASELINE * (node.contention - usual)

    def _stretch(self, rank: int, readings: Readings) -> float:
        """How many times more threads want each processor of the rank's node than the run is used to."""
        name = readings.homes.get(rank, "")
        if name not in readings.nodes:
            return 1.0
        more = readings.nodes[name].contention / max(1.0, self._usual[name])
        return min(self._settings.stretch, max(1.0, more))

    def _bound_s(self, rank: int, readings: Readings) -> float:
        quiet = self._quiet[rank]
        if quiet.activity in ("busy", "starved"):
            given = max(quiet.cores, 1 / self._settings.stretch)
            return self._patience.busy_s(rank) * max(1.0, 1 / given)
        return self._patience.idle_s(rank) * self._stretch(rank, readings)

    def _stopped(self, now_s: float, here: dict[int, PageView]) -> list[Finding]:
        found: list[Finding] = []
        for rank, quiet in self._quiet.items():
            still = quiet.activity == "stopped" and quiet.window_s >= 0.9 * _STOPPED_S
            if still and quiet.silent_s >= _STOPPED_S:
                found += self._begin(rank, now_s, here[rank], "hang", self._words(rank, here))
        return found

    def _missing(self, now_s: float, here: dict[int, PageView], readings: Readings) -> list[Finding]:
        """Ranks without a page, while all others wait at the very start or are ready to go."""
        absent = [rank for rank in readings.ranks if rank not in readings.views]
        self._absent_s = {rank: self._absent_s.get(rank, now_s) for rank in absent}
        held_up = all(
            (view.waiting and not view.finished) or view.phase in (Phase.START, Phase.REGROUP)
            for view in here.values()
        )
        bound_s = self._patience.pause_s(Phase.START)
        for rank in list(absent):
            if not held_up or now_s - self._absent_s[rank] < bound_s:
                absent.remove(rank)
        self._standing.keep("rendezvous", [("rendezvous", rank) for rank in absent])
        found: list[Finding] = []
        for rank in absent:
            began_s = self._absent_s[rank]
            what = f"rank {rank} has not come for {now_s - began_s:.1f} s; {len(here)} others are there"
            finding = Finding(kind="rendezvous", rank=rank, what=what, began_s=began_s, seen_s=now_s)
            found += self._standing.begin(("rendezvous", rank), finding)
        return found

    def _desync(self, now_s: float, graph: WaitGraph, here: dict[int, PageView]) -> list[Finding]:
        mismatch = graph.mismatch
        bound_s = max(_MISMATCH_S, 2 * self._patience.step_p99_s)
        if mismatch is None or not graph.victims or self._group_s() < bound_s:
            return []
        if mismatch.sequence <= min(view.finished for view in here.values()):
            return []  # all came past it: ranks of this group do not do the same
        named = mismatch.majority and len(mismatch.odd) == 1
        finding = Finding(
            kind="desync",
            rank=mismatch.odd[0] if named else None,
            what=_tell(mismatch, here),
            began_s=max(self._quiet[rank].beat_s for rank in mismatch.odd),
            seen_s=now_s,
            suspects=mismatch.odd,
        )
        return self._standing.begin(("hang", None), finding)

    def _group_s(self) -> float:
        return min(quiet.silent_s for quiet in self._quiet.values())

    def _blame(
        self, now_s: float, graph: WaitGraph, here: dict[int, PageView], readings: Readings
    ) -> list[Finding]:
        paused = [rank for rank, view in here.items() if self._patience.pauses(view)]
        caution = 3.0 if paused else 1.0
        late = [
            rank
            for rank in self._suspects(graph, here)
            if rank not in paused
            and self._quiet[rank].silent_s >= caution * self._bound_s(rank, readings)
            and self._group_s() >= 0.5 * self._quiet[rank].silent_s
        ]
        if ("hang", None) in self._standing:
            return []
        if len(late) > 1 and len(late) == len(here):
            began_s = max(self._quiet[rank].beat_s for rank in late)
            loading = all(here[rank].phase == Phase.LOAD for rank in late)
            what = f"none of {len(late)} ranks goes on, none waits: {self._words(late[0], here)}"
            finding = Finding(
                kind="dataloader_hang" if loading else "hang",
                rank=None,
                what=what,
                began_s=began_s,
                seen_s=now_s,
                suspects=tuple(late),
            )
            return self._standing.begin(("hang", None), finding)
        found: list[Finding] = []
        for rank in late:
            kind: FaultClass = "dataloader_hang" if here[rank].phase == Phase.LOAD else "hang"
            what = self._words(rank, here)
            if victims := [rank for rank in graph.victims if rank not in late]:
                what += f"; ranks {_list(victims)} wait for it in collective {graph.sequence}"
            found += self._begin(rank, now_s, here[rank], kind, what)
        return found

    def _suspects(self, graph: WaitGraph, here: dict[int, PageView]) -> tuple[int, ...]:
        """Where all wait, those that do not come out of a collective as their interpreter lock is held."""
        if graph.suspects:
            return graph.suspects
        held = tuple(rank for rank in graph.victims if self._quiet[rank].locked)
        return held if len(held) < len(here) else ()

    def _all_wait(
        self, now_s: float, graph: WaitGraph, here: dict[int, PageView], readings: Readings
    ) -> list[Finding]:
        if graph.suspects or len(here) < 2 or len(here) < len(readings.ranks):
            return []
        if any(("hang", rank) in self._standing for rank in here):
            return []
        longest_s = max(self._bound_s(rank, readings) for rank in here)
        if self._group_s() < max(_ALL_WAIT_S, 3 * longest_s):
            return []
        least = min(view.finished for view in here.values())
        finding = Finding(
            kind="comm_error",
            rank=None,
            what=f"all {len(here)} ranks wait, collective {graph.sequence} does not finish",
            began_s=max(quiet.beat_s for quiet in self._quiet.values()),
            seen_s=now_s,
            suspects=tuple(sorted(rank for rank, view in here.items() if view.finished == least)),
        )
        return self._standing.begin(("hang", None), finding)

    def _words(self, rank: int, here: dict[int, PageView]) -> str:
        quiet, phase = self._quiet[rank], here[rank].phase
        activity = quiet.activity
        what = _WORDS[activity]
        if quiet.locked and activity in ("asleep", "busy", "blocked", "unknown"):
            what += " with the interpreter lock held"
        doing = "waiting for data" if phase == Phase.LOAD else f"in phase {phase.name.lower()}"
        return f"rank {rank} {what}, {doing} of step {here[rank].step + 1}, silent for {quiet.silent_s:.1f} s"

    def _begin(self, rank: int, now_s: float, view: PageView, kind: FaultClass, what: str) -> list[Finding]:
        began_s = self._quiet[rank].beat_s
        finding = Finding(kind=kind, rank=rank, what=what, began_s=began_s, seen_s=now_s, suspects=(rank,))
        return self._standing.begin(("hang", rank), finding)


def _tell(mismatch: Mismatch, here: dict[int, PageView]) -> str:
    odd = _list(mismatch.odd)
    others = [rank for rank in here if rank not in mismatch.odd]
    if mismatch.majority:
        return f"rank {odd} did another collective than ranks {_list(others)} at sequence {mismatch.sequence}"
    return f"ranks {odd} did different collectives at sequence {mismatch.sequence}"


def _list(ranks: list[int] | tuple[int, ...]) -> str:
    return ", ".join(str(rank) for rank in ranks)
