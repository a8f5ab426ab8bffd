"""Does the disk keep what is written? A block is written, flushed, dropped from memory, and read back."""

import errno
import hashlib
import os
import time
from pathlib import Path

import msgspec

BLOCK = 1 << 20


class DiskProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How the probe went. At most one of `error` and `differs` is set."""

    path: str
    duration_s: float
    error: str = ""
    """What the system said, as ENOSPC; empty: it went through."""
    differs: bool = False
    """What came back is not what was written."""


def probe_disk(folder: Path, seed: int = 0) -> DiskProbe:
    """Writes a file of `BLOCK` bytes to `folder`, fsync, read back, compare, remove. Never raises; may
    block as long as the disk does, so it belongs in a process or thread of its own.
    """
    path = folder / f".probe-{os.getpid()}-{seed}"
    begin_s = time.monotonic()
    error, differs = "", False
    try:
        differs = _write_and_read(path, hashlib.shake_128(seed.to_bytes(8)).digest(BLOCK))
    except OSError as cause:
        error = errno.errorcode.get(cause.errno or 0, str(cause))
    except Exception as cause:
        error = repr(cause)
    return DiskProbe(path=str(folder), duration_s=time.monotonic() - begin_s, error=error, differs=differs)


def _write_and_read(path: Path, block: bytes) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = memoryview(block)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, BLOCK, os.POSIX_FADV_DONTNEED)
        return _read(descriptor) != block
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _read(descriptor: int) -> bytes:
    read = b""
    while len(read) < BLOCK and (piece := os.pread(descriptor, BLOCK - len(read), len(read))):
        read += piece
    return read
