"""Runs a node's check beside everything else, in a process of its own."""

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from isthmus import leash
from isthmus.faults.burn_report import BurnProblem, BurnReport

QUICK_S, FULL_S = 5.0, 60.0
"""What the checks themselves take at most."""
START_S = 60.0
"""Until the child has imported what it needs, on a busy machine."""
CLOCK_S = 2.0
"""Clocks that are further apart than this are told of."""


@dataclass
class Checker:
    """Owns the child.

    Args:
        chip: of the node, as the fleet calls it.
        count: how many of it.
        disk: folder that the check writes to.
        figures: where the node's own figures are kept, for the next time.
    """

    chip: str
    count: int
    disk: Path
    figures: Path
    _child: subprocess.Popen[bytes] | None = None
    _until_s: float = 0.0
    _output: bytes = b""
    _clock_s: float | None = None
    _way_s: float = field(default=1e9)

    def begin(self, full: bool = False) -> None:
        """Starts a check, unless one is running."""
        if self._child:
            return
        self._until_s = time.monotonic() + START_S + (FULL_S if full else QUICK_S) * 2
        arguments = ["--chip", self.chip, "--count", str(self.count), "--disk", str(self.disk)]
        arguments += ["--figures", str(self.figures), *(["--full"] if full else [])]
        self._child = subprocess.Popen(
            leash.command("isthmus.train.burn_in", arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def done(self) -> BurnReport | None:
        """Its result, once; None while there is none."""
        if self._child is None:
            return None
        if self._child.poll() is None and time.monotonic() < self._until_s:
            return None
        late = self._child.poll() is None
        if late:
            self._child.kill()
        output, errors = self._child.communicate()
        code, self._child = self._child.returncode, None
        if late:
            return _failed("it did not come to an end")
        try:
            report = msgspec.json.decode(output, type=BurnReport)
        except msgspec.MsgspecError:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            return _failed(f"it ended with exit code {code}: {last}")
        return self._with_clock(report)

    def run(self, full: bool = False) -> BurnReport:
        """Starts it and waits for its result."""
        self.begin(full)
        while (report := self.done()) is None:
            time.sleep(0.05)
        return report

    def keeper_clock(self, wall_s: float, way_s: float) -> None:
        """What the keeper's clock showed, and how long the way there and back took: the shortest counts
        (RFC 5905)."""
        if way_s <= self._way_s * 1.1:
            self._way_s, self._clock_s = way_s, time.time() - wall_s - way_s / 2

    def _with_clock(self, report: BurnReport) -> BurnReport:
        if self._clock_s is None:
            return report
        figures = {**report.figures, "clock_offset_s": self._clock_s}
        warnings = list(report.warnings)
        if abs(self._clock_s) > CLOCK_S + self._way_s:
            warnings.append(f"the clock is {self._clock_s:+.1f} s off that of the keeper's node")
        return msgspec.structs.replace(report, figures=figures, warnings=warnings)

    def close(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()


def _failed(text: str) -> BurnReport:
    return BurnReport(problems=[BurnProblem("check", text)])
