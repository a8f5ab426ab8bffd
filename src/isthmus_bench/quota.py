"""A share of the machine's CPU for a group of processes, by control group (version 1 or 2). Needs root."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from isthmus.errors import InputError

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000
"""Short, so that a group is throttled for milliseconds at a time, not for tenths of a second."""


class Quota:
    """A control group that may use `cores` cores in all."""

    def __init__(self, folder: Path, cores: float):
        self.folder = folder
        self.cores = cores

    def prefix(self) -> list[str]:
        """Put before a command line: it then runs, with its children, in this group."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    def add(self, pid: int) -> None:
        """Moves a running process; children it starts from now on belong to the group too."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def throttled_share(self) -> float:
        """Share of the periods in which the group ran into its quota."""
        stat = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        periods = int(stat.get("nr_periods", 0))
        return int(stat.get("nr_throttled", 0)) / periods if periods else 0.0


def can_use_quotas() -> bool:
    """Root, and a cpu controller of either version."""
    return os.geteuid() == 0 and (_is_v1() or _is_v2())


@contextlib.contextmanager
def quota(cores: float) -> Iterator[Quota]:
    """A new control group, removed at the end; processes still in it then go back to the root group.

    Raises InputError without root or a cpu controller.
    """
    if not can_use_quotas():
        raise InputError("CPU quotas need root and a cpu control group", where="/sys/fs/cgroup")
    root = _V1 if _is_v1() else _V2
    folder = root / f"isthmus-{secrets.token_hex(3)}"
    folder.mkdir()
    try:
        runtime_us = max(1000, round(cores * _PERIOD_US))
        if _is_v1():
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(runtime_us))
        else:
            (folder / "cpu.max").write_text(f"{runtime_us} {_PERIOD_US}")
        yield Quota(folder, cores)
    finally:
        _remove(folder, root)


def _remove(folder: Path, root: Path) -> None:
    deadline_s = time.monotonic() + 5.0
    while time.monotonic() < deadline_s:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(pid)
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.02)


def _is_v1() -> bool:
    return (_V1 / "cpu.cfs_quota_us").exists()


def _is_v2() -> bool:
    controllers = _V2 / "cgroup.subtree_control"
    return controllers.exists() and "cpu" in controllers.read_text().split()
