"""Builds a C file of this package with the system's compiler when it is first needed, and loads it.

The library lies in the user's cache under a name that holds a hash of source, flags, compiler and CPU, so
that machines may share a home. Where there is no compiler, or it fails, the caller has another way.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
"""OpenMP is torch's: its libgomp is loaded already, under the same name."""
BUILD_TIMEOUT_S = 120.0
_log = logging.getLogger(__name__)


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """The library of `source`; None, with a word in the log, where it cannot be built or loaded."""
    try:
        return ctypes.CDLL(str(build(source, cache_folder())))
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("%s is not compiled, PyTorch does its work, slower: %s", source.name, _reason(error))
        return None


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "isthmus" / "compiled"


def build(source: Path, folder: Path) -> Path:
    """Path of the library in `folder`. Ranks that start together may all build it: the last one's stays.

    Raises OSError (no compiler, no room) or subprocess.SubprocessError (it failed, or took too long).
    """
    compiler = os.environ.get("CC") or "cc"
    version = _run([compiler, "--version"])
    key = hashlib.sha256("\0".join([source.read_text(), *FLAGS, compiler, version, _cpu()]).encode())
    library = folder / f"{source.stem}-{key.hexdigest()[:20]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unfinished = Path(scratch) / library.name
            _run([compiler, *FLAGS, "-o", str(unfinished), str(source)])
            unfinished.replace(library)
    return library


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=True).stdout


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU")))


def _reason(error: Exception) -> str:
    stderr = getattr(error, "stderr", None)
    return f"{error} {stderr or ''}".strip()
