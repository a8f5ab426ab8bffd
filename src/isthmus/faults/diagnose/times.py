"""The wall time of a line, in the forms that frameworks, kernels and vendors write."""

import re
from calendar import timegm
from collections.abc import Callable

_HEAD = 200
"""Characters of a line in which its time is looked for."""
_MONTHS = {
    name: number + 1
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    )
}
_ISO = re.compile(
    r"\b((?:19|20)\d\d)[-/](\d\d)[-/](\d\d)[T _-](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:\.(\d{3}))?"
    r"(Z|[+-]\d\d:?\d\d)?"
)
_GLOG = re.compile(r"\b[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{1,9})")
_CTIME = re.compile(r"\b([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) ((?:19|20)\d\d)\b")
_SYSLOG = re.compile(r"^(?:<\d+>)?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\s")
_EPOCH = re.compile(
    r"^\W?(1[4-9]\d{8})(?:\.(\d{1,9}))?\b|\"(?:ts|time|timestamp)\": ?(1[4-9]\d{8}(?:\.\d+)?)"
)


def wall_of(line: str, year: int) -> float | None:
    """Unix seconds; None where the line tells none, or only the time since boot.

    `year` is for forms without one. Times without a zone count as UTC: only their order is used.
    """
    head = line[:_HEAD]
    for pattern, read in _READERS:
        if match := pattern.search(head):
            return read(match, year)
    return None


def _iso(match: re.Match[str], _: int) -> float | None:
    parts = tuple(int(match[index]) for index in range(1, 7))
    digits = (match[7] or "") + (match[8] or "")
    return _seconds(parts, digits, match[9] or "Z")


def _glog(match: re.Match[str], year: int) -> float | None:
    month, day, hour, minute, second = (int(match[index]) for index in range(1, 6))
    return _seconds((year, month, day, hour, minute, second), match[6])


def _ctime(match: re.Match[str], _: int) -> float | None:
    clock = tuple(int(match[index]) for index in range(3, 6))
    return _seconds((int(match[6]), _MONTHS.get(match[1], 0), int(match[2]), *clock), "")


def _syslog(match: re.Match[str], year: int) -> float | None:
    clock = tuple(int(match[index]) for index in range(3, 6))
    return _seconds((year, _MONTHS.get(match[1], 0), int(match[2]), *clock), match[6] or "")


def _epoch(match: re.Match[str], _: int) -> float | None:
    return float(match[3]) if match[3] else float(f"{match[1]}.{match[2] or 0}")


_READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], int], float | None]], ...] = (
    (_ISO, _iso), (_GLOG, _glog), (_CTIME, _ctime), (_SYSLOG, _syslog), (_EPOCH, _epoch),
)  # fmt: skip


def _seconds(parts: tuple[int, ...], digits: str, zone: str = "Z") -> float | None:
    year, month, day, hour, minute, second = parts
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 25 and minute < 60 and second < 62):
        return None
    whole = timegm((year, month, day, hour, minute, second, 0, 0, 0))
    if zone != "Z":
        sign = -1 if zone[0] == "+" else 1
        whole += sign * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
    return whole + (int(digits) / 10 ** len(digits) if digits else 0.0)
