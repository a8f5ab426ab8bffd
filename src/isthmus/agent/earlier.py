"""Processes that an earlier life of this agent has started."""

import contextlib
from pathlib import Path

from isthmus.errors import CorruptError
from isthmus.faults.detect.process import read_process
from isthmus.faults.page import PageReader


def pid_of(page: Path) -> int | None:
    """Of the process that writes this page; None where there is no page."""
    with contextlib.suppress(FileNotFoundError, CorruptError):
        reader = PageReader(page)
        try:
            return reader.read().pid
        finally:
            reader.close()
    return None


def is_process(pid: int, process: str) -> bool:
    """It lives and goes by this name: a number may have been given away again."""
    known = read_process(pid)
    if known is None or known.letter in "ZX":
        return False
    with contextlib.suppress(OSError):
        return process.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").split()
    return False
