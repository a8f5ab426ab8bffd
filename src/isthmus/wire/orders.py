"""Orders to a relay of this machine, a line each, through a named pipe in the run's folder.

The relay that `shaper` runs keeps it open; without one nobody reads, and giving an order fails at once.
"""

import errno
import os
from pathlib import Path
from typing import TextIO

from isthmus.errors import UnreachableError

_HINT = "is the run going on, on this machine?"


def take_orders(path: Path) -> TextIO:
    """The pipe to read them from, line by line and without end. Takes the place of an earlier relay's."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR)  # with a writer of our own it never ends
    return os.fdopen(descriptor, "r", encoding="utf-8", errors="replace")


def give_order(path: Path, order: str) -> None:
    """Raises UnreachableError where no relay listens."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            raise UnreachableError("no relay takes orders here", where=str(path), hint=_HINT) from error
        raise UnreachableError(f"the relay cannot be told: {error}", where=str(path), hint=_HINT) from error
    try:
        os.write(descriptor, f"{order}\n".encode())
    except OSError as error:
        raise UnreachableError(f"the relay cannot be told: {error}", where=str(path), hint=_HINT) from error
    finally:
        os.close(descriptor)
