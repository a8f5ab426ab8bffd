"""Beneath torchrun or srun: the first process of the node keeps all its ranks, the others wait for it.

So the launcher never sees a rank die: it would end the others.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isthmus.agent.rank import Place, rank_place
from isthmus.errors import InputError, IsthmusError, UnreachableError

LEADER_S = 120.0
"""Until the node's first process has begun."""
POLL_S = 0.05


@dataclass(frozen=True)
class Node:
    """This process's place on the node that a launcher gave us."""

    place: Place
    key: str
    """The same in all processes of this node and this start, and in no other."""

    @property
    def num_ranks(self) -> int:
        return self.place.world_size

    @property
    def file(self) -> Path:
        return Path(tempfile.gettempdir()) / f"isthmus-{os.getuid()}-{self.key}.end"


def node_of(environ: Mapping[str, str]) -> Node | None:
    """None in a process that no launcher started as one of several ranks. Raises InputError for more than one
    node.
    """
    place = rank_place(environ)
    if place is None:
        return None
    if not is_one_node(environ, place):
        raise InputError(
            "the launcher has started ranks on several nodes",
            where="environment",
            hint="`isthmus run` keeps the ranks of one node",
        )
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Node(place, f"{os.getppid()}-{_began(os.getppid())}-{attempt}")


def is_one_node(environ: Mapping[str, str], place: Place) -> bool:
    """Whether all ranks of the launcher are here."""
    if "LOCAL_WORLD_SIZE" in environ:
        return environ["LOCAL_WORLD_SIZE"] == str(place.world_size)
    nodes = environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or "1"
    return nodes == "1"


def lead(node: Node, work: Callable[[], int]) -> int:
    """Does the work in the node's first process, whose environment is then that of no rank; in the others,
    waits. Returns the same exit code in all.
    """
    if not node.place.is_first_of_node:
        return follow(node)
    # the folder is everybody's, and the name can be guessed: what somebody has put there is not followed
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(node.file, flags, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("begun\n")
        file.flush()
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID"):
            os.environ.pop(name, None)
        code = 1
        try:
            code = work()
        except IsthmusError as error:
            code = error.exit_code
            raise
        finally:
            file.write(f"{code}\n")
            node.file.unlink()  # the others have it open
    return code


def follow(node: Node) -> int:
    """Until the first process has ended, however it ends. Raises UnreachableError if it never begins."""
    deadline = time.monotonic() + LEADER_S
    while not _has_begun(node.file):
        if time.monotonic() > deadline:
            raise UnreachableError("the first process of this node has not begun", where=str(node.file))
        time.sleep(POLL_S)
    try:
        with open(node.file) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            said = file.read().split()
    except FileNotFoundError:
        return 1  # it has ended just now
    return int(said[1]) if len(said) > 1 else 1


def _has_begun(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _began(pid: int) -> str:
    """When a process began, so that its number is not taken for an earlier one's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"
