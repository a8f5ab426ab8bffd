"""`isthmus bench`. The benchmarks are a package of their own; they run in a child process."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Literal

from isthmus.errors import NotFoundError

PACKAGE = "isthmus_bench"


def bench(
    name: Literal["outer", "moe", "balance", "upcycle", "loader", "transport", "sim", "planner", "faults"],
    *,
    quick: bool = False,
    soak: bool = False,
    json_: bool = False,
) -> int:
    """Run a benchmark and print its figures beside their targets.

    Every figure is a ratio or a count, taken side by side with its peers in one run.

    Parameters
    ----------
    name
        outer: training across sites; moe: layers of experts; balance: experts kept evenly loaded;
        upcycle: an upcycled model against the dense one; loader: data; transport: bytes between sites;
        sim: the protocol; planner: its predictions and plans; faults: what a run survives.
    quick
        Small sizes: shows that it works, proves nothing.
    soak
        The long ones instead; only `faults` has any.
    json_
        Print one JSON document: {"machine": ..., "results": [{"id", "value", "unit", "peers", "note"}]}.
    """
    if find_spec(PACKAGE) is None:
        raise NotFoundError(
            "the benchmarks are not installed", where=PACKAGE, hint="install isthmus from its source tree"
        )
    options = ["--quick"] * quick + ["--soak"] * soak + ["--json"] * json_
    return subprocess.run([sys.executable, "-m", PACKAGE, name, *options], check=False).returncode
