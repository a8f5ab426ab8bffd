"""All detectors of a site's group in one."""

from typing import Protocol

import msgspec

from isthmus.faults.detect.disk import DiskDetector
from isthmus.faults.detect.hang import HangDetector
from isthmus.faults.detect.memory import MemoryDetector, MemorySettings
from isthmus.faults.detect.numbers import LossDetector, NonfiniteDetector
from isthmus.faults.detect.patience import HangSettings
from isthmus.faults.detect.readings import Readings
from isthmus.faults.detect.sdc import SdcDetector
from isthmus.faults.detect.slow import SlowDetector
from isthmus.faults.detect.standing import Standing
from isthmus.faults.finding import Finding


class Detector(Protocol):
    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        """What is new."""
        ...


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent or a test knows better; the other detectors go by their own bounds."""

    hang: HangSettings = HangSettings()
    memory: MemorySettings = MemorySettings()


class Watch:
    """Fed 20 times a second; says each fault once, and when it is over."""

    def __init__(self, settings: WatchSettings | None = None):
        settings = settings or WatchSettings()
        self._standing = standing = Standing()
        self._detectors: tuple[Detector, ...] = (
            HangDetector(standing, settings.hang),
            NonfiniteDetector(standing),
            LossDetector(standing),
            SdcDetector(standing),
            SlowDetector(standing),
            MemoryDetector(standing, settings.memory),
            DiskDetector(standing),
        )

    def observe(self, now_s: float, readings: Readings) -> list[Finding]:
        """New findings; `now_s` on the monotonic clock, the same instant as the pages were read for."""
        return [finding for detector in self._detectors for finding in detector.observe(now_s, readings)]

    def standing(self) -> tuple[Finding, ...]:
        """Faults that were found and have not ended."""
        return self._standing.found()

    def take_ended(self) -> list[Finding]:
        """Those that ended since the last call, as they were found then: a rank is fast again, a link is
        back.
        """
        return self._standing.take_ended()
