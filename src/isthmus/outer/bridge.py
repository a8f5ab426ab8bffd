"""Between a site's rank 0 and its client process: three shared vectors and a Unix socket.

The vectors hold the whole model in the layout's flat order, fp32:

- `reference` R: where local progress is measured from. The client owns it.
- `snapshot`  S: the local parameters at a push. The rank writes it, then sends `Pushed`.
- `base`: what R becomes when a version is taken up. The client writes it, then sends `BaseReady`; from then
  on it belongs to the rank until the client hears `Taken` or a later `Pushed`.

A `BaseReady` that was sent before the client saw the rank's latest push is stale: `pushes_seen` tells, the
rank ignores it, and the client sends another.

A rank 0 whose place another takes when it dies sends notes: what it knows (`SiteState`), after each step and
with each message that changes what it will do next. What was written to the vectors counts once the message
that tells of it is heard whole, so each note agrees with them.
"""

import mmap
import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from isthmus.outer.layout import Layout
from isthmus.outer.site_state import BaseReady, SiteState
from isthmus.wire import line

_LONGEST_FOLDER = 40
"""Characters; a socket's path may have 107, and there are a name and a site's name to come."""

Range = tuple[int, int]


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Rank to client, first: which tensors there are. Sent again by a restarted rank."""

    layout: Layout
    model_hash: str
    data_hash: str
    batch_size: int
    step: int = -1
    """Steps the ranks have done; -1: they keep no count, and this rank 0 sends no notes."""
    resume: bool = False
    """Rank 0 was replaced, the others still hold the parameters after `step`."""


class Attached(msgspec.Struct, frozen=True, tag=True):
    """Client to rank: the shared vectors are in this file."""

    path: str
    note: SiteState | None = None
    """Go on from here: nothing else follows that a fresh start would bring. Never but for `resume`."""
    unheard: tuple["LocalMessage", ...] = ()
    """What the client has said since."""


class SnapshotReady(msgspec.Struct, frozen=True, tag=True):
    """Rank to client: `snapshot` holds the initial parameters, for a server that has none yet."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """Client to rank: admitted by the server. `delay` < 0: take versions up as they come."""

    strict: bool
    inner_steps: int
    delay: int
    may_push: bool
    """False: a contribution of the ranks before these is still in flight; `MayPush` will come."""


class Granted(msgspec.Struct, frozen=True, tag=True):
    ranges: tuple[Range, ...]


class Pace(msgspec.Struct, frozen=True, tag=True):
    """This site's inner steps per window from now on."""

    inner_steps: int


class MayPush(msgspec.Struct, frozen=True, tag=True):
    """The contribution in flight found its fate; another may follow."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    reason: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The server will not have this site; nothing to wait for."""

    reason: str
    hint: str


class Pushed(msgspec.Struct, frozen=True, tag=True):
    """Rank to client: `snapshot` is written; the steps since the last push used these ranges."""

    ranges: tuple[Range, ...]
    tokens: int
    group_tokens: list[int]
    steps: int
    step_s: float
    """Mean seconds of one inner step, waiting not counted."""
    note: SiteState | None = None


class Taken(msgspec.Struct, frozen=True, tag=True):
    version: int
    delay_steps: int
    note: SiteState | None = None


class Noted(msgspec.Struct, frozen=True, tag=True):
    """Rank to client, after each step and before anything is written to the vectors at its boundary."""

    note: SiteState


class Rate(msgspec.Struct, frozen=True, tag=True):
    """Rank to client, now and then: seconds per step, so that leases can be sized before the first push."""

    step_s: float


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """Rank to client: no more steps. Sent after the last push."""

    reason: str


LocalMessage = (
    Attach | Attached | SnapshotReady | Started | Granted | Pace | MayPush | BaseReady | Stop | Refused
    | Pushed | Taken | Noted | Rate | Leaving
)  # fmt: skip


class Vectors:
    """The three shared vectors, mapped from one file.

    Args:
        path: file to map; made and removed by `Vectors.make`'s owner.
        size: fp32 values in each vector.
    """

    def __init__(self, path: Path, size: int):
        self.path = path
        self._descriptor = -1
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 3 * 4 * size)
        whole = np.frombuffer(self._map, np.float32).reshape(3, size)
        self.reference, self.snapshot, self.base = whole[0], whole[1], whole[2]

    @classmethod
    def make(cls, size: int) -> "Vectors":
        """In memory without a name where the system has that: it is gone with the last process that uses it,
        however that ends, and a small /dev/shm (containers) is no limit. Other processes of this user reach
        it as a descriptor of this one.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("isthmus")
            path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        else:
            descriptor, name = tempfile.mkstemp(prefix="isthmus-")
            path = Path(name)
        os.truncate(descriptor, 3 * 4 * size)
        vectors = cls(path, size)
        vectors._descriptor = descriptor
        return vectors

    def remove(self) -> None:
        """Nobody can map it any more; those who have keep it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if not self.path.is_relative_to("/proc"):
                self.path.unlink(missing_ok=True)


class Line(line.Line[LocalMessage]):
    kind = LocalMessage
    what = "the site's process at the other end of the local line"


def line_folder() -> Path:
    """A new folder for lines, private to this user. Sockets' paths are short by nature, so where the usual
    folder for temporary files has a long name it is /tmp.
    """
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="isthmus-", dir=usual if len(usual) <= _LONGEST_FOLDER else "/tmp"))
