"""Faults of the process that calls them. No torch here."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

_CHUNK = 4 << 20


def make(name: str, value: float) -> None:
    """Returns only where the process goes on afterwards.

    Args:
        value: seconds of a pause; of 'oom' the MB after which it is killed.
    """
    match name:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(0)
        case "abort":
            os.abort()
        case "error":
            raise KeyError("position_ids")
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep" | "loader":
            time.sleep(value)
        case "missing":
            _sleep_for_ever()
        case "gil":
            ctypes.PyDLL(None).usleep(ctypes.c_uint(min(int(value * 1e6), 2**32 - 1)))
        case "busy":
            _loop(value)
        case "oom":
            _fill_memory(int(value * 1e6))
        case _:
            raise AssertionError(name)


def too_much(limit_mb: float) -> str:
    """Why so much must not be taken here; empty where it may."""
    free_mb = available_bytes() / 1e6
    if limit_mb > free_mb / 2:
        return (
            f"'oom' up to {limit_mb:g} MB would touch others: half of what is free are {free_mb / 2:.0f} MB"
        )
    return ""


def available_bytes() -> int:
    """Memory that can be had without harm to others; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return 1024 * next(found, 0)


def _sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(3600.0)


def _loop(duration_s: float) -> None:
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        pass


def _fill_memory(limit: int) -> None:
    """A group's own limit may be lower: then the kernel does it earlier."""
    taken: list[bytes] = []
    while sum(map(len, taken)) < limit:
        taken.append(b"\1" * _CHUNK)
    os.kill(os.getpid(), signal.SIGKILL)
