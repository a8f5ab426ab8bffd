"""Memory that leaks, before there is none left. The trend is `Climb`'s: growth of the floor that neither
levels off nor was there before. Looked at from the 20th step of a process on; until then things are set up.
"""

import msgspec

from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.trend import Climb
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageView, Phase
from isthmus.faults.terms import FaultClass

_SETTLED_STEPS = 20


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True):
    host_limit: dict[str, int] = {}
    """Bytes that a node's ranks may use together (control group or machine), by node."""
    horizon_s: float = 1800.0
    """No finding if there is more time left."""
    block_s: float = 2.0


class MemoryDetector:
    def __init__(self, standing: Standing, settings: MemorySettings | None = None):
        self._settings = settings or MemorySettings()
        self._standing = standing
        self._born: dict[int, tuple[int, int]] = {}
        """Pid, and the step at which it was first seen."""
        self._climbs: dict[tuple[FaultClass, int], Climb] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        found: list[Finding] = []
        for rank, view in readings.views.items():
            if not self._settled(rank, view):
                continue
            process = readings.processes.get(rank)
            limit = self._host_limit(rank, readings)
            if process is not None and limit is not None:
                found += self._follow(now_s, "oom_host", rank, process.rss, limit)
            if view.memory_limit:
                found += self._follow(now_s, "oom_device", rank, view.memory, view.memory_limit)
        return found

    def _settled(self, rank: int, view: PageView) -> bool:
        if self._born.get(rank, (-1, 0))[0] != view.pid:
            self._born[rank] = (view.pid, view.step)
            for kind in ("oom_host", "oom_device"):
                self._climbs.pop((kind, rank), None)
                self._standing.end((kind, rank))
        return view.phase != Phase.START and view.step >= self._born[rank][1] + _SETTLED_STEPS

    def _host_limit(self, rank: int, readings: Readings) -> int | None:
        """What is left for this rank beside the others of its node."""
        node = readings.homes.get(rank, "")
        if node not in self._settings.host_limit:
            return None
        others = [r for r, home in readings.homes.items() if home == node and r != rank]
        used = sum(readings.processes[r].rss for r in others if r in readings.processes)
        return self._settings.host_limit[node] - used

    def _follow(self, now_s: float, kind: FaultClass, rank: int, used: int, limit: int) -> list[Finding]:
        climb = self._climbs.setdefault((kind, rank), Climb(self._settings.block_s))
        if not climb.add(now_s, used):
            return []
        eta_s = climb.eta_s(limit)
        if eta_s is None:
            self._standing.end((kind, rank))
            return []
        if eta_s > self._settings.horizon_s:
            return []
        where = "of the device" if kind == "oom_device" else "of the host"
        what = (
            f"memory {where} of rank {rank} grows without end: {used / 2**30:.2f} GiB now, "
            f"{limit / 2**30:.2f} GiB in {eta_s / 60:.1f} min"
        )
        finding = Finding(
            kind=kind,
            rank=rank,
            what=what,
            began_s=now_s,
            seen_s=now_s,
            suspects=(rank,),
            lasting=False,
        )
        return self._standing.begin((kind, rank), finding)
