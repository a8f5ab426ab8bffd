"""A module as a child that does not outlive its parent: `python -m isthmus.leash PARENT MODULE ARGUMENT...`.

When the parent ends, however it ends, the child gets SIGTERM: it leaves in order, as if it was asked to.
"""

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """What to execute for a leashed child of this process. Start it in a thread that lasts: on Linux the
    end of that thread counts as the parent's.
    """
    return [sys.executable, "-m", "isthmus.leash", str(os.getpid()), module, *arguments]


def main(argv: list[str]) -> None:
    parent, module, *arguments = argv
    hold(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def hold(parent: int) -> None:
    """Only Linux offers this; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
