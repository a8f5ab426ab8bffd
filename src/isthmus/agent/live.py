"""Where an agent keeps what must be quick and need not last: sockets, pages and copies of state in memory."""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from isthmus.errors import StorageError
from isthmus.journal.store import DiskStore, Store

LEAVE_S = 15.0
_SHARED = Path("/dev/shm")
_ENOUGH = 16 << 20
"""Bytes free in /dev/shm; containers often have 64 MiB of it, or none."""


class Address(msgspec.Struct, frozen=True):
    """The file `agent.json` in a site's folder: where its agent is to be found."""

    folder: str
    pid: int


@contextlib.contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Holds a site's folder for its one keeper. Raises StorageError where another one keeps it; one whose
    launcher was killed takes some seconds to leave.
    """
    store, deadline = DiskStore(), time.monotonic() + LEAVE_S
    store.make_folder(folder)
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(store.lock(folder))
                break
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def live_folder(file: Path, store: Store | None = None) -> Path:
    """The agent's folder, private to this user: that of its earlier life where it is still there."""
    store = store or DiskStore()
    folder = found.folder if (found := read_address(file)) else ""
    if not folder or not _is_ours(Path(folder)):
        folder = tempfile.mkdtemp(prefix="isthmus-", dir=_root())
    store.make_folder(file.parent)
    store.write_atomic(file, msgspec.json.encode(Address(folder, os.getpid())))
    return Path(folder)


def read_address(file: Path) -> Address | None:
    """None where no agent has been, or its file cannot be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(file.read_bytes(), type=Address)
    return None


def remove(folder: Path, file: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    file.unlink(missing_ok=True)


def listen(path: Path) -> socket.socket:
    """A door that only this user's processes can reach."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    door.bind(str(path))
    os.chmod(path, 0o600)
    door.listen(64)
    return door


def _is_ours(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        about = folder.stat()
        return about.st_uid == os.getuid() and about.st_mode & 0o077 == 0
    return False


def _root() -> str | None:
    with contextlib.suppress(OSError):
        about = os.statvfs(_SHARED)
        if about.f_bavail * about.f_frsize > _ENOUGH and os.access(_SHARED, os.W_OK):
            return str(_SHARED)
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 40 else "/tmp"
