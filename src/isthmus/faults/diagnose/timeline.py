"""One order of time over the lines of all files."""

from collections.abc import Sequence

from msgspec.structs import replace

from isthmus.faults.diagnose.lines import Line
from isthmus.faults.diagnose.scan import Scanned

SLACK_S = 600.0
"""A step that is told so long after a line shows that training outlived it, though another file tells it."""


def merge(scanned: Sequence[Scanned]) -> list[Line]:
    """The lines of all parts of one file after another: numbers count through the file."""
    lines: list[Line] = []
    before: dict[str, int] = {}
    for each in scanned:
        offset = before.get(each.part.name, 0)
        before[each.part.name] = offset + each.num_lines
        lines += [replace(line, number=line.number + offset) for line in each.lines] if offset else each.lines
    return lines


def ordered(lines: Sequence[Line]) -> list[Line]:
    """By time. In one file the order of its lines counts: clocks jump, and many lines tell no time, so that a
    line has the time of the last line above it that tells one, or later. Without any clock, by place.
    """
    keyed = []
    last: dict[str, float] = {}
    for line in lines:
        wall = line.wall_s if line.wall_s is not None else last.get(line.file)
        if wall is not None:
            wall = last[line.file] = max(wall, last.get(line.file, wall))
        keyed.append((wall if wall is not None else float("inf"), line))
    if len({line.file for line in lines}) < 2:
        return list(lines)
    keyed.sort(key=lambda each: (each[0], each[1].number, each[1].file))
    return [line for _, line in keyed]


def outlived(lines: Sequence[Line], scanned: Sequence[Scanned]) -> frozenset[int]:
    """Places of lines after which training went on: its file tells more steps after it, or another one does
    long after it.
    """
    steps: dict[str, int] = {}
    before: dict[str, int] = {}
    for each in scanned:
        name = each.part.name
        if each.progress:
            steps[name] = each.progress + before.get(name, 0)
        before[name] = before.get(name, 0) + each.num_lines
    last_s = max((each.progress_s for each in scanned if each.progress_s is not None), default=None)
    return frozenset(
        place
        for place, line in enumerate(lines)
        if (line.number and line.number < steps.get(line.file, 0))
        or (last_s is not None and line.wall_s is not None and line.wall_s < last_s - SLACK_S)
    )
