"""Ranks for lines that name none: by process, by device, by what the launcher says of a process."""

import re
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from isthmus.faults.diagnose.lines import EXIT_RANK, Line

_EXIT_PID = re.compile(r"\(pid: (\d+)\)")
_FAR = re.compile(r"remote|peer", re.IGNORECASE)


def fill(lines: Sequence[Line]) -> list[Line]:
    """The lines, with `rank` wherever it can be told."""
    by_pid, by_local = _by_pid(lines), _by_local(lines)
    by_device = _by_device(lines)
    return [_filled(line, by_pid, by_local, by_device) for line in lines]


def _filled(
    line: Line, by_pid: dict[int, int], by_local: dict[int, int] | None, by_device: dict[int, int] | None
) -> Line:
    if line.rank is not None:
        return line
    rank = by_pid.get(line.pid) if line.pid is not None else None
    if rank is None and line.local_rank is not None and by_local is not None:
        rank = by_local.get(line.local_rank, line.local_rank)
    if rank is None and line.device is not None and by_device is not None and not _FAR.search(line.text):
        rank = by_device.get(line.device)
    return line if rank is None else msgspec.structs.replace(line, rank=rank)


def _by_pid(lines: Sequence[Line]) -> dict[int, int]:
    """Process -> rank, by lines that show both; processes that were seen with two ranks are left out."""
    seen: dict[int, set[int]] = defaultdict(set)
    rank, file = None, ""
    for line in lines:
        if line.file != file:
            rank, file = None, line.file
        if line.rank is not None and line.pid is not None and "remote" not in line.text:
            seen[line.pid].add(line.rank)
        if match := EXIT_RANK.search(line.text):
            rank = int(match[1])
        elif rank is not None and (match := _EXIT_PID.search(line.text)) and "local_rank" not in line.text:
            seen[int(match[1])].add(rank)
    return {pid: ranks.pop() for pid, ranks in seen.items() if len(ranks) == 1}


def _by_local(lines: Sequence[Line]) -> dict[int, int] | None:
    """Local rank -> rank: the same number on one node; None where several nodes make it unclear."""
    found: dict[int, set[int]] = defaultdict(set)
    for line in lines:
        if match := EXIT_RANK.search(line.text):
            found[int(match[2])].add(int(match[1]))
    if any(len(ranks) > 1 for ranks in found.values()):
        return None
    return {local: next(iter(ranks)) for local, ranks in found.items()}


def _by_device(lines: Sequence[Line]) -> dict[int, int] | None:
    """Device -> rank, by lines that show both; None where it is not one to one."""
    found: dict[int, set[int]] = defaultdict(set)
    for line in lines:
        if line.rank is not None and line.device is not None:
            found[line.device].add(line.rank)
    if any(len(ranks) > 1 for ranks in found.values()):
        return None
    return {device: next(iter(ranks)) for device, ranks in found.items()}
