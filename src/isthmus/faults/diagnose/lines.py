"""One line of a log: who wrote it, when, and what it says without its prefixes."""

import re

import msgspec

MAX_TEXT = 2000
EXIT_RANK = re.compile(r"rank +: (\d+) \(local_rank: (\d+)\)")
"""In torchrun's summary: the rank and its number on the node."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line that matters. `text` has no prefixes such as `[rank3]:`."""

    file: str
    number: int
    """From 1; 0 for what is not a line of a file."""
    text: str
    rank: int | None = None
    local_rank: int | None = None
    pid: int | None = None
    device: int | None = None
    node: str = ""
    wall_s: float | None = None
    entries: tuple[str, ...] = ()
    """Ids of the catalogue entries whose signature it matches."""
    count: int = 1
    """How many like it the file has from this rank."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}" if self.number else self.file


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote a line, as far as it tells."""

    rank: int | None = None
    local_rank: int | None = None
    pid: int | None = None
    device: int | None = None
    node: str = ""


_PREFIXES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (field, re.compile(pattern))
    for field, pattern in (
        ("rank", r"\[(?:rank|Rank|RANK|trainer)[ _]?(\d+)\]:?\s?"),
        ("local_rank", r"\[default(\d+)\]:?\s?"),
        ("rank", r"\s{0,3}(\d{1,6}): (?!\d+:)"),
        ("rank", r"(?:rank|Rank|RANK)[ _]?(\d+)\s?[:|]\s?(?=\S)"),
        ("node", r"\[((?:node|host|worker|pod|gpu)[\w.-]*\d)\]:?\s"),
        ("node", r"((?:worker|node|host|pod|gpu)[\w.-]*\d): "),
        ("ray", r"\(\w+(?:\(.*?\))? pid=(\d+)(?:, ip=([\d.]+))?\)\s?"),
    )
)
_NCCL = re.compile(r"([\w.-]+)(?::(\d+):(\d+))? \[(\d+)\] (?=.{0,40}NCCL |NCCL)")
_PLOG = re.compile(r"\[\w+\] *\w+\((\d+),[\w.-]*\)")
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[(?:Rank|rank|RANK) ?(\d+)\]",
        r"\bRank(?:ID|Id|_id)[:=] ?(\d+)",
        r"\bGUID \S+ Rank (\d+)\]",
        r"(?<![A-Za-z_ ])rank\[(\d+)\]",
        r"^\W*[Rr]ank ?(\d+)\b ?[:,]",
        r": Rank (\d+):",
    )
)
_SAID = re.compile(
    r"(?<![\w.])(?<!remote )(?<!peer )(?<!from )(?<!to )(?<!for )(?<!with )(?<!dst )(?<!src )(?<!on )"
    r"(?:global[ _])?[Rr](?:ank|ANK)(?:\s*[:=]\s*| )\[?(\d+)\b"
)
_LOCAL = re.compile(r"\blocal[_ ]rank\s?[:=]?\s?\[?(\d+)")
_DEVICE = re.compile(
    r"\bGPU (\d+) has a total|\b[Dd]evice(?:_id)? ?(?:[:=] ?|\[|\()(\d+)\b"
    r"|\bdev(?:Id|id|_id)[=:](\d+)|\bdevice (\d+)\b|\bset_?[dD]evice\((\d+)\)"
)
_PID = re.compile(r"\(?\b[Pp][Ii][Dd][:=]? ?(\d+)")
_PID_ONLY = re.compile(r"\[PID: (\d+)\]|\(PID:(\d+)|\(pid: (\d+)\)|\bprocess (\d+)\b")


def read_author(raw: str) -> tuple[Author, str]:
    """Who wrote it, and the text without prefixes."""
    found: dict[str, int | str] = {}
    text = _strip(raw, found)
    if match := _NCCL.match(text):
        found.setdefault("node", match[1])
        if match[2]:
            found.setdefault("pid", int(match[2]))
        found.setdefault("device", int(match[4]))
    elif match := _PLOG.match(text):
        found.setdefault("pid", int(match[1]))
    _read_body(text, found)
    return msgspec.convert(found, Author), text


def _strip(raw: str, found: dict[str, int | str]) -> str:
    text = raw
    for _ in range(4):
        for field, pattern in _PREFIXES:
            match = pattern.match(text)
            if not match:
                continue
            if field == "ray":
                found.setdefault("pid", int(match[1]))
                if match[2]:
                    found.setdefault("node", match[2])
            else:
                found.setdefault(field, match[1] if field == "node" else int(match[1]))
            text = text[match.end() :]
            break
        else:
            break
    return text


def _read_body(text: str, found: dict[str, int | str]) -> None:
    """What the text itself says of rank, process and device, where no prefix did."""
    head = text[:MAX_TEXT]
    if "rank" not in found:
        named = next((match for pattern in _NAMED if (match := pattern.search(head))), None)
        named = named or _SAID.search(head)
        if named:
            found["rank"] = int(named[1])
    if "local_rank" not in found and (local := _LOCAL.search(head)):
        found["local_rank"] = int(local[1])
    if "pid" not in found and (pid := _PID_ONLY.search(head) or _PID.search(head[:80])):
        found["pid"] = int(next(group for group in pid.groups() if group))
    if "device" not in found and (device := _DEVICE.search(head)):
        found["device"] = int(next(group for group in device.groups() if group))
    for name in ("rank", "local_rank", "pid", "device"):
        if isinstance(value := found.get(name), int) and value >= 1 << 31:
            del found[name]


_FILE_RANK = re.compile(r"(?:^|[^a-zA-Z])(?:global[_-]?)?rank[_.-]?(?:[a-z]\w*-)?(\d+)(?!\d)", re.IGNORECASE)
_FILE_ATTEMPT = re.compile(r"attempt_\d+/(\d+)/(?:stdout|stderr|error)")
_FILE_DEVICE = re.compile(r"(?:^|/)device-(\d+)/")
_FILE_PID = re.compile(r"(?:plog|device)-(\d+)_")


def author_of_file(name: str) -> Author:
    """What a file's name tells of all its lines: rank_3.log, attempt_0/3/stderr.log, plog-4213_....log."""
    rank, local = _FILE_RANK.search(name), _FILE_ATTEMPT.search(name)
    device, pid = _FILE_DEVICE.search(name), _FILE_PID.search(name)
    return Author(
        rank=int(rank[1]) if rank and len(rank[1]) < 8 else None,
        local_rank=int(local[1]) if local and len(local[1]) < 8 else None,
        device=int(device[1]) if device and len(device[1]) < 8 else None,
        pid=int(pid[1]) if pid and len(pid[1]) < 10 else None,
    )


_PLACES = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"\b([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?)\b", re.IGNORECASE),
        (r"\bNVSwitch ?(\d+)", 0),
        (r"\bip:? ?\[?(\d+\.\d+\.\d+\.\d+)", 0),
        (r"\b(mlx5_\d+|nvme\d+n?\d*|sd[a-z]\d?|hns_\d+|bnxt_re\d+)\b", 0),
        (r"\[?(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})\]?[:<]\d+", 0),
    )
)  # fmt: skip


def place_of(line: Line) -> str:
    """Bus address, network port, disk, address, device or node that the line names; '' for none."""
    for pattern in _PLACES:
        if match := pattern.search(line.text):
            return match[1]
    if line.device is not None:
        return f"device {line.device}" + (f" of {line.node}" if line.node else "")
    if line.node:
        return line.node
    return f"pid {line.pid}" if line.pid is not None else ""
