"""A disk that is full, will be before the next checkpoint is written, or does not keep what is written."""

import msgspec

from isthmus.faults.detect.disk_probe import DiskProbe
from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.standing import Standing
from isthmus.faults.detect.trend import Climb
from isthmus.faults.finding import Finding
from isthmus.faults.terms import FaultClass

_FULL = ("ENOSPC", "EDQUOT")
_MARGIN = 1.05


class DiskSettings(msgspec.Struct, frozen=True, kw_only=True):
    checkpoint_bytes: int = 0
    """Of the next one, on a node."""
    horizon_s: float = 1800.0
    """No finding if there is more time left."""
    slow_s: float = 30.0
    """A probe that takes longer."""
    block_s: float = 2.0


class DiskDetector:
    def __init__(self, standing: Standing, settings: DiskSettings | None = None):
        self._settings = settings or DiskSettings()
        self._standing = standing
        self._climbs: dict[str, Climb] = {}

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        found: list[Finding] = []
        for name, node in readings.nodes.items():
            if node.disk_free is not None:
                found += self._space(now_s, name, node.disk_free)
            if node.probe is not None:
                found += self._probed(now_s, name, node.probe)
        return found

    def _space(self, now_s: float, name: str, free: int) -> list[Finding]:
        needed = int(self._settings.checkpoint_bytes * _MARGIN)
        climb = self._climbs.setdefault(name, Climb(self._settings.block_s))
        news = climb.add(now_s, -free)
        if free < needed:
            what = (
                f"{free / 2**30:.2f} GiB free on {name}; the next checkpoint takes {needed / 2**30:.2f} GiB"
            )
            return self._begin(now_s, "disk_full", name, what)
        if not news:
            return []
        eta_s = climb.eta_s(-needed)
        if eta_s is None:
            self._standing.end(("disk_full", name))
        elif eta_s <= self._settings.horizon_s:
            what = (
                f"{free / 2**30:.2f} GiB free on {name}; in {eta_s / 60:.1f} min there is no room for a "
                f"checkpoint of {needed / 2**30:.2f} GiB"
            )
            return self._begin(now_s, "disk_full", name, what)
        return []

    def _probed(self, now_s: float, name: str, probe: DiskProbe) -> list[Finding]:
        where = f"{probe.path} on {name}"
        if probe.error in _FULL:
            return self._begin(
                now_s, "disk_full", name, f"no room for a probe file in {where}: {probe.error}"
            )
        if probe.error:
            return self._begin(now_s, "disk_fail", name, f"a probe of {where} failed: {probe.error}")
        if probe.differs:
            return self._begin(now_s, "disk_fail", name, f"{where} gave back other bytes than were written")
        self._standing.end(("disk_fail", name))
        if probe.duration_s > self._settings.slow_s:
            return self._begin(now_s, "storage", name, f"a probe of {where} took {probe.duration_s:.0f} s")
        self._standing.end(("storage", name))
        return []

    def _begin(self, now_s: float, kind: FaultClass, name: str, what: str) -> list[Finding]:
        finding = Finding(
            kind=kind, rank=None, place=name, what=what, began_s=now_s, seen_s=now_s, lasting=False
        )
        return self._standing.begin((kind, name), finding)
