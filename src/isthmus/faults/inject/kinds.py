"""The closed list of faults that can be made, and what a detector should call each."""

from enum import IntEnum
from typing import Literal

import msgspec

from isthmus.faults.terms import FaultClass

KindName = Literal[
    "kill", "exit", "crash", "abort", "error", "stop", "sleep", "gil", "busy", "loader", "mismatch",
    "missing", "nan", "flip", "slow", "leak", "oom", "disk_full", "corrupt", "truncate", "clock", "keeper",
    "link_cut", "link_slow",
]  # fmt: skip

Place = Literal["", "saving", "recovering"]
"""Where a fault waits for: nowhere in particular, the writing of a checkpoint, the making of a new group."""

Actor = Literal["rank", "agent", "relay", "files"]
"""Who makes it: the rank itself, its site's agent, the relay that emulates the site's link, whoever reaches
the run's files."""


class Point(IntEnum):
    """Where in its work a rank asks whether a fault is due. In the order of a rank's life."""

    START = 0
    """Before its first group is made."""
    STEP_BEGIN = 1
    DATA = 2
    """Before the rows of the step are loaded."""
    COMPUTE = 3
    """The rows are there; forward and backward begin."""
    GRADIENT = 4
    """Its own gradient, before anything of it is exchanged: already there, or in the backward to come."""
    EXCHANGE = 5
    """Before the next collective of the step, all computing done."""
    COMMIT = 6
    """The optimizer has stepped."""
    SAVING = 7
    """A checkpoint is about to be written."""
    RECOVERING = 8
    """Before a new group is made, or a checkpoint read."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    name: KindName
    what: str
    """In one line."""
    fault: FaultClass
    """What a detector or a diagnosis should say."""
    value: str = ""
    """What the value means, with its unit; empty where there is none."""
    default: float = 0.0
    """Taken for a value of 0."""
    most: float = float("inf")
    """The largest value."""
    points: tuple[Point, ...] = (Point.STEP_BEGIN,)
    """Where a rank makes it, if it makes it."""
    actor: Actor = "rank"
    roams: bool = False
    """It may also wait for a place (`Place`)."""
    instant: bool = False
    """Asked for at once, it happens at once, whatever the rank is at."""


def _process(name: KindName, what: str, fault: FaultClass = "crash") -> Kind:
    """A fault of the whole process, at any instant."""
    return Kind(name=name, what=what, fault=fault, roams=True, instant=True)


def _pause(name: KindName, what: str, instant: bool = False) -> Kind:
    return Kind(
        name=name, what=what, fault="hang", value="seconds it lasts", default=3600.0, roams=True,
        instant=instant,
    )  # fmt: skip


_ALL = (
    _process("kill", "the rank's process is killed by SIGKILL"),
    _process("exit", "its process ends with code 0 and without a word"),
    _process("crash", "its process is ended by SIGSEGV"),
    _process("abort", "its process calls abort(), as a failed check in native code does"),
    Kind(
        name="error", what="its training loop raises KeyError('position_ids')", fault="user_code", roams=True
    ),
    _process("stop", "its process is stopped by SIGSTOP and stays there", "hang"),
    _pause("sleep", "its main thread sleeps, in Python"),
    _pause("gil", "a native call holds the interpreter lock: no thread of it runs any more", instant=True),
    _pause("busy", "its main thread loops without progress"),
    Kind(
        name="loader", what="loading the rows of a step stalls", fault="dataloader_hang",
        value="seconds it lasts", default=3600.0, points=(Point.DATA,),
    ),
    Kind(
        name="mismatch", what="its next collective has another size than that of the others", fault="desync",
        points=(Point.EXCHANGE,),
    ),
    Kind(
        name="missing", what="the rank never comes to the making of its group", fault="rendezvous",
        points=(Point.START, Point.RECOVERING),
    ),
    Kind(name="nan", what="one value of its own gradient becomes NaN", fault="nan", points=(Point.GRADIENT,)),
    Kind(
        name="flip", what="one exponent bit of one of its parameters is flipped", fault="sdc",
        value="which exponent bit, 1 is the lowest", default=3.0, most=8.0, points=(Point.COMMIT,),
    ),
    Kind(
        name="slow", what="its computing takes longer, from then on; 1 ends it", fault="fail_slow",
        value="times as long", default=1.2, points=(Point.COMPUTE,),
    ),
    Kind(
        name="leak", what="it keeps more host memory with every step", fault="oom_host",
        value="MB for each step", default=16.0,
    ),
    Kind(
        name="oom", what="it takes host memory until it is killed; refused without a limit", fault="oom_host",
        value="MB after which it is killed, at most half of what is free",
    ),
    Kind(
        name="disk_full", what="writing checkpoints fails with ENOSPC", fault="disk_full",
        value="saves that fail", default=1.0,
    ),
    Kind(
        name="corrupt", what="bits of the newest checkpoint's tensor file are flipped", fault="ckpt_corrupt",
        value="number of bits", default=1.0, actor="files", roams=True,
    ),
    Kind(
        name="truncate", what="the newest checkpoint's tensor file is cut short", fault="ckpt_corrupt",
        value="share of it that is lost", default=0.5, most=1.0, actor="files", roams=True,
    ),
    Kind(
        name="clock", what="the wall clock that the rank reports goes wrong", fault="config",
        value="seconds ahead; below 0: behind", default=60.0,
    ),
    Kind(name="keeper", what="the site's agent is killed by SIGKILL", fault="crash", actor="agent"),
    Kind(
        name="link_cut", what="the site's emulated link passes nothing", fault="partition",
        value="seconds it lasts", default=10.0, actor="relay",
    ),
    Kind(
        name="link_slow", what="the site's emulated link gets slower, rate and delay; 1 ends it",
        fault="network_degraded", value="times as slow", default=10.0, actor="relay",
    ),
)  # fmt: skip

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}


def value_of(kind: Kind, value: float) -> float:
    """The value that is meant."""
    return value or kind.default


def refusal(name: str, value: float, at: str = "", at_step: int = -1) -> str:
    """Why there is no such fault; empty where there is."""
    kind = KINDS.get(name)
    if kind is None:
        return f"there is no fault '{name}'"
    if value and not kind.value:
        return f"'{name}' takes no value"
    if value < 0 and name != "clock":
        return f"'{name}' takes no value below 0"
    if value > kind.most:
        return f"{value:g} is too much for '{name}': at most {kind.most:g}"
    if name in ("slow", "link_slow") and 0 < value < 1:
        return f"'{name}' by {value:g} would be faster, not slower"
    if name == "oom" and not value:
        return "'oom' needs a limit as its value, in MB"
    if at and not kind.roams:
        return f"'{name}' cannot wait for '{at}'"
    if at_step >= 0 and kind.actor in ("agent", "relay"):
        return f"'{name}' cannot go by steps: nobody counts them there"
    return ""
