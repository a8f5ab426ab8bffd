"""A disk that is full, will be before the next checkpoint is written, or does not keep what is written."""

from isthmus.faults.detect.disk_probe import DiskProbe
from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.trend import Climb
from isthmus.faults.finding import Finding
from isthmus.faults.terms import FaultClass

_FULL = ("ENOSPC", "EDQUOT")
_MARGIN = 1.05
_HORIZON_S = 1800.0
"""No finding if there is more time left."""
_SLOW_S = 30.0
"""A probe that takes longer."""


class DiskDetector:
    def __init__(self, standing: Standing):
        self._standing = standing
        self._climbs: dict[str, Climb] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        found: list[Finding] = []
        for name, node in readings.nodes.items():
            if node.disk_free is not None:
                found += self._space(now_s, name, node.disk_free, node.checkpoint_bytes)
            if node.probe is not None:
                found += self._probed(now_s, name, node.probe)
        return found

    def _space(self, now_s: float, name: str, free: int, checkpoint_bytes: int) -> list[Finding]:
        needed = int(checkpoint_bytes * _MARGIN)
        climb = self._climbs.setdefault(name, Climb())
        news = climb.add(now_s, -free)
        if free < needed:
            what = (
                f"{free / 2**30:.2f} GiB free on {name}; the next checkpoint takes {needed / 2**30:.2f} GiB"
            )
            return self._begin(now_s, "disk_full", ("disk_full", name), what)
        if not news:
            return []
        eta_s = climb.eta_s(-needed)
        if eta_s is None:
            self._standing.end(("disk_full", name))
        elif eta_s <= _HORIZON_S:
            what = (
                f"{free / 2**30:.2f} GiB free on {name}; in {eta_s / 60:.1f} min there is no room for a "
                f"checkpoint of {needed / 2**30:.2f} GiB"
            )
            return self._begin(now_s, "disk_full", ("disk_full", name), what)
        return []

    def _probed(self, now_s: float, name: str, probe: DiskProbe) -> list[Finding]:
        """What a probe found stands until another one goes through."""
        where = f"{probe.path} on {name}"
        kind, what = _verdict(probe, where)
        for other in ("disk_full", "disk_fail", "storage"):
            if other != kind:
                self._standing.end((other, name, "probe"))
        return self._begin(now_s, kind, (kind, name, "probe"), what) if kind else []

    def _begin(self, now_s: float, kind: FaultClass, key: tuple[str, ...], what: str) -> list[Finding]:
        finding = Finding(
            kind=kind, rank=None, place=key[1], what=what, began_s=now_s, seen_s=now_s, lasting=False
        )
        return self._standing.begin(key, finding)


def _verdict(probe: DiskProbe, where: str) -> tuple[FaultClass | None, str]:
    if probe.error in _FULL:
        return "disk_full", f"no room for a probe file in {where}: {probe.error}"
    if probe.error:
        return "disk_fail", f"a probe of {where} failed: {probe.error}"
    if probe.differs:
        return "disk_fail", f"{where} gave back other bytes than were written"
    if probe.duration_s > _SLOW_S:
        return "storage", f"a probe of {where} took {probe.duration_s:.0f} s"
    return None, ""
