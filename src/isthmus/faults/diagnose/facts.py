"""What lines say beside faults: who timed out in what, who waits for whom, how processes ended."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set

import msgspec

from isthmus.faults.diagnose.lines import EXIT_RANK, Line


class Timeout(msgspec.Struct, frozen=True, kw_only=True):
    """A collective that a rank gave up on."""

    rank: int | None
    seq: int
    op: str
    size: str
    group: str
    line: Line


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """`waiter` (None: not known) could not go on without `on`."""

    waiter: int | None
    on: int
    line: Line


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. `code` is negative for a signal."""

    rank: int | None
    code: int
    pid: int | None
    first: bool
    """The launcher calls it the first failure that it observed."""
    line: Line


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a traceback."""

    kind: str
    line: Line


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    timeouts: tuple[Timeout, ...]
    waits: tuple[Wait, ...]
    exits: tuple[Exit, ...]
    raised: tuple[Raised, ...]
    dead: tuple[Wait, ...]
    """Ranks that others call dead or lost."""
    settings: dict[str, dict[str, frozenset[int]]]
    """Variable -> value -> ranks that told it."""
    ranks: frozenset[int]
    """All ranks that wrote or are named."""
    closed: frozenset[int]
    """Processes that their launcher ended."""
    devices: frozenset[int]
    """All devices that are named."""
    world: int | None
    """Number of ranks, where it is told."""

    @property
    def members(self) -> frozenset[int]:
        return frozenset(range(self.world)) if self.world and self.world <= 1 << 17 else self.ranks

    @property
    def first_exit(self) -> Exit | None:
        """The one that the launcher saw first; where it says nothing, the only one that ended by itself."""
        told = [each for each in self.exits if each.first]
        own = [each for each in self.exits if each.code not in (0, -15, 143)]
        if told:
            return told[0]
        return own[0] if len({each.rank for each in own}) == 1 else None


_TIMEOUT = re.compile(
    r"Work[NH]CCL\(SeqNum=(\d+), OpType=(\w+)(?:, NumelIn=(\d+))?(?:, NumelOut=(\d+))?"
    r"|Process group work (?P<op>\w+), seq_num (?P<seq>\d+) dispatch timeout"
)
_GROUP = re.compile(r"\[PG (?:ID )?(\S+)")
_WAITS = tuple(
    re.compile(pattern)
    for pattern in (
        r"[Rr]emote[ _]?[Rr]ank(?:[ _]?[Ii][Dd])?\W{0,4}(\d+)",
        r"/default_pg/\d+//\w+//\d+/(\d+)",
        r"//\w+//\d+/(\d+)\s*$",
        r"[Rr]anks? \[?(\d+)[\d, ]*\]? failed to pass monitoredBarrier",
        r"retrieving (?:ncclUniqueId|HCCL root info) from \[(\d+)\]",
        r"[Ww]ait(?:s|ing|ed)? (?:for|on) rank (\d+)",
        r"from rank (\d+) timed out",
        r"\[(\d+)\] (?:finished collective .*didn't join|joined but didn't finish)",
    )
)
_DEAD = re.compile(
    r"rank \[?(\d+)\]?:? (?:is (?:dead|lost|unresponsive)|has (?:died|left|exited)|.{0,12}heartbeat lost)"
    r"|[Hh]eartbeat (?:lost |Lost )?(?:of|from) rank \[?(\d+)",
    re.IGNORECASE,
)
_EXIT = re.compile(
    r"\bexitcode *: *(-?\d+)|[Ee]xited with (?:exit )?code:? (-?\d+)|exit ?code:? (\d+)"
    r"|return code[ =:]+(-?\d+)|exit with status code (\d+)"
)
_ENDED_BY = re.compile(
    r"exited on signal (\d+)|died with <Signals\.(SIG[A-Z]+)"
    r"|\btask (?:\d+): (Killed|Segmentation fault|Aborted|Bus)"
)
_TASK = re.compile(r"\btask (\d+): |\bprocess rank (\d+) with PID|^Process (\d+) exit with")
_NUMBERS = {
    "SIGKILL": 9, "SIGSEGV": 11, "SIGABRT": 6, "SIGBUS": 7, "SIGTERM": 15, "SIGFPE": 8, "SIGILL": 4,
    "Killed": 9, "Segmentation fault": 11, "Aborted": 6, "Bus": 7,
}  # fmt: skip
_CLOSED = re.compile(r"(?:Sending|Closing) process (\d+) (?:closing|via) signal")
_RAISED = re.compile(
    r"^(?:[\w ()/,.-]{0,40}: )??((?:[A-Za-z_]\w*\.)*[A-Z_]\w*"
    r"(?:Error|Exception|Interrupt|Exit|Timeout|Full|Empty))\b(?::|\s*$)"
)
_SETTING = re.compile(r"\b([A-Z][A-Z0-9_]+) set by environment to (\S+)")
_WORLD = re.compile(r"world[_ ]size[ =:]+(\d+)|nranks (\d+)|rankNum\[(\d+)\]", re.IGNORECASE)
_TORN = 0xFFFF_FFFF


def gather(lines: Sequence[Line], ranks: Iterable[int] = ()) -> Facts:
    """`lines` of all files with ranks filled in, file by file; `ranks` that wrote anything."""
    timeouts = [each for line in lines if (each := _timeout(line))]
    waits = [each for line in lines if (each := _wait(line))]
    dead = [each for line in lines if (each := _lost(line))]
    named = {line.rank for line in lines if line.rank is not None}
    closed = frozenset(int(match[1]) for line in lines if (match := _CLOSED.search(line.text)))
    exits = tuple(_exits(lines, closed))
    named |= {each.rank for each in exits if each.rank is not None}
    worlds = Counter(
        int(next(group for group in match.groups() if group))
        for line in lines
        if (match := _WORLD.search(line.text))
    )
    return Facts(
        timeouts=tuple(timeouts),
        waits=tuple(waits),
        exits=exits,
        raised=tuple(each for line in lines if (each := _raised(line))),
        dead=tuple(dead),
        settings=_settings(lines),
        ranks=frozenset(named | set(ranks)),
        closed=closed,
        devices=frozenset(line.device for line in lines if line.device is not None),
        world=max(worlds) if worlds else None,
    )


def _timeout(line: Line) -> Timeout | None:
    match = _TIMEOUT.search(line.text)
    if not match:
        return None
    group = _GROUP.search(line.text)
    op, seq = match[2] or match["op"], match[1] or match["seq"]
    size = f"{match[3]}" if match[3] else ""
    return Timeout(rank=line.rank, seq=int(seq), op=op, size=size, group=group[1] if group else "", line=line)


def _wait(line: Line) -> Wait | None:
    for pattern in _WAITS:
        match = pattern.search(line.text)
        if match and int(match[1]) < _TORN and int(match[1]) != line.rank:
            return Wait(waiter=line.rank, on=int(match[1]), line=line)
    return None


def _lost(line: Line) -> Wait | None:
    match = _DEAD.search(line.text)
    if not match:
        return None
    return Wait(waiter=None, on=int(match[1] or match[2]), line=line)


def _exits(lines: Sequence[Line], closed: Set[int]) -> Iterable[Exit]:
    """torchrun's summary has one after another: `Root Cause`, `rank : 2 (local_rank: 2)`, `exitcode : -9`. A
    process that its launcher ended, if need be by -9, counts as ended by SIGTERM.
    """
    rank, first, file = None, False, ""
    for line in lines:
        if line.file != file:
            rank, first, file = None, False, line.file
        if "Root Cause (first observed failure)" in line.text:
            first = True
        if match := EXIT_RANK.search(line.text):
            rank = int(match[1])
        code = _code(line.text)
        if code is not None:
            code = -15 if line.pid in closed else code
            inside = "local_rank" not in line.text
            task = _TASK.search(line.text)
            whose = rank if inside and rank is not None else line.rank
            whose = int(next(group for group in task.groups() if group)) if task else whose
            yield Exit(rank=whose, code=code, pid=line.pid, first=first and inside, line=line)
            rank, first = None, False


def _code(text: str) -> int | None:
    """Negative for a signal."""
    if match := _ENDED_BY.search(text):
        number = int(match[1]) if match[1] else _NUMBERS.get(match[2] or match[3])
        return -number if number else None
    match = _EXIT.search(text)
    return int(next(group for group in match.groups() if group)) if match else None


def _raised(line: Line) -> Raised | None:
    match = _RAISED.search(line.text)
    return Raised(kind=match[1].rpartition(".")[2], line=line) if match else None


def _settings(lines: Sequence[Line]) -> dict[str, dict[str, frozenset[int]]]:
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for line in lines:
        match = _SETTING.search(line.text)
        if match and line.rank is not None:
            found[match[1]][match[2]].add(line.rank)
    return {
        name: {value: frozenset(ranks) for value, ranks in values.items()} for name, values in found.items()
    }
