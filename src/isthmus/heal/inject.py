"""Asking for faults: from the command to a site's agent, and what command and agent do to files and links."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from isthmus.errors import NotFoundError, UnreachableError
from isthmus.faults.inject.files import damage
from isthmus.faults.inject.kinds import KINDS, value_of
from isthmus.faults.inject.messages import InjectReply, InjectRequest
from isthmus.wire.line import Line
from isthmus.wire.orders import give_order

ANSWER_S = 10.0
CONNECT_S = 1.0


class InjectLine(Line[InjectReply]):
    """The command's end of it."""

    kind = InjectReply
    what = "the site's agent"


def ask(address: Path, requests: Sequence[InjectRequest]) -> list[InjectReply]:
    """The agent's answers, in order.

    Args:
        address: the file in which the agent says where it listens.

    Raises NotFoundError without that file, UnreachableError where nobody answers.
    """
    with closing(InjectLine.dial(_socket_of(address), CONNECT_S)) as line:
        replies: list[InjectReply] = []
        for request in requests:
            line.send(request)
            deadline_s = time.monotonic() + ANSWER_S
            while not (answer := line.receive(1.0)):
                if time.monotonic() > deadline_s:
                    raise UnreachableError(
                        "the site's agent does not answer", where=str(address), hint="see its log"
                    )
            replies += answer
        return replies


def listens(address: Path) -> bool:
    """Whether an agent is there."""
    try:
        InjectLine.dial(_socket_of(address), 0.0).close()
    except (NotFoundError, UnreachableError):
        return False
    return True


def _socket_of(address: Path) -> str:
    try:
        return address.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotFoundError(
            "the site has no agent here",
            where=str(address),
            hint="give the run's folder on the machine where the site runs",
        ) from error


def act(name: str, value: float, relays: Sequence[Path], checkpoints: Path) -> str:
    """Make a fault of the actors 'files' and 'relay' now; what was done, in a sentence.

    Args:
        relays: the pipes through which the site's relays take orders.
        checkpoints: the site's folder of them.

    Raises NotFoundError where there is no checkpoint, or no relay, UnreachableError where none listens.
    """
    kind = KINDS[name]
    if kind.actor == "files":
        return damage(name, checkpoints, value)
    if not relays:
        raise NotFoundError(
            "the site's link is not emulated",
            where=str(checkpoints.parent),
            hint="set `shape: true` in the site's link in fleet.yaml; a real link is cut on its own machines",
        )
    value = value_of(kind, value)
    for relay in relays:
        give_order(relay, f"blackhole {value:g}" if name == "link_cut" else f"slow {value:g}")
    return f"cut for {value:g} s" if name == "link_cut" else f"slower by a factor of {value:g}"
