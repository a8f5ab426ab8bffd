"""What there is to read: files and folders of logs, flight records, folders of isthmus runs."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.diagnose.dumps import Dump, rank_of_dump, read_dump
from isthmus.faults.diagnose.lines import Line
from isthmus.faults.diagnose.scan import PART_BYTES, Part
from isthmus.journal.events import CheckpointFailed, Fault
from isthmus.journal.reader import read as read_journal
from isthmus.journal.writer import FOLDER

MAX_FILES = 100_000
_NO_LOGS = frozenset(
    (
        ".bin", ".csv", ".distcp", ".gif", ".idx", ".jpg", ".npy", ".npz", ".parquet", ".png", ".pt", ".pth",
        ".py", ".pyc", ".safetensors", ".so", ".tar", ".yaml", ".yml", ".zip", ".zst",
    )
)  # fmt: skip
_SNIFF_BYTES = 4096
_CONTROLS = bytes({*range(32), 127} - {*b"\b\t\n\f\r\x1b"})
"""Bytes that text has no use for; terminals take the others."""
_RANK = re.compile(r"rank[/-].*[/-](\d{1,7})")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    parts: tuple[Part, ...]
    dumps: tuple[Dump, ...]
    told: tuple[Line, ...]
    """Faults that a journal tells."""
    problems: tuple[str, ...]
    """Files that could not be read, and why."""


def find(paths: Sequence[Path]) -> Sources:
    """Raises NotFoundError for a path that is not there, InputError where none of them can be read."""
    parts: list[Part] = []
    dumps: list[Dump] = []
    told: list[Line] = []
    problems: list[str] = []
    for path in paths:
        if not path.exists():
            raise NotFoundError(
                "there is no such file or folder", where=str(path), hint="give log files, or folders of them"
            )
        if (path / FOLDER).is_dir():
            told += _journal(path)
        for file in _files(path, problems):
            name = _name(file, path, alone=len(paths) == 1)
            try:
                _take(file, name, parts, dumps)
            except (InputError, OSError) as error:
                problems.append(f"{name}: {_why(error)}")
    if not (parts or dumps or told):
        raise unreadable(paths, problems)
    parts.sort(key=lambda part: (part.name, part.start))
    dumps.sort(key=lambda dump: (dump.rank, dump.where))
    return Sources(parts=tuple(parts), dumps=tuple(dumps), told=tuple(told), problems=tuple(sorted(problems)))


def unreadable(paths: Sequence[Path], problems: Sequence[str]) -> InputError:
    """For paths of which nothing could be read."""
    return InputError(
        problems[0] if problems else "nothing here can be read as a log or a flight record: no text",
        where=", ".join(map(str, paths)),
        hint="logs are text, or text in .gz; flight records are named such as _dump_3",
    )


def _why(error: InputError | OSError) -> str:
    return error.message if isinstance(error, InputError) else error.strerror or str(error)


def _files(path: Path, problems: list[str]) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    num_files = 0
    for file in sorted(path.rglob("*")):
        hidden = any(name.startswith(".") for name in file.relative_to(path).parts)
        if hidden or FOLDER in file.relative_to(path).parts[:-1] or not file.is_file():
            continue
        num_files += 1
        if num_files > MAX_FILES:
            problems.append(f"{path}: only the first {MAX_FILES:,} files are read")
            return
        yield file


def _name(file: Path, root: Path, alone: bool) -> str:
    if file == root:
        return file.name if alone else str(file)
    return str(file.relative_to(root)) if alone else str(file)


def _take(file: Path, name: str, parts: list[Part], dumps: list[Dump]) -> None:
    """Raises InputError, OSError."""
    rank = rank_of_dump(file)
    if rank is not None and _is_record(file):
        dumps.append(msgspec.structs.replace(read_dump(file, rank), where=name))
        return
    if file.suffix.lower() in _NO_LOGS or not _is_text(file):
        return
    stat = file.stat()
    year = time.gmtime(stat.st_mtime).tm_year
    if file.suffix == ".gz" or stat.st_size <= PART_BYTES:
        parts.append(Part(path=str(file), name=name, year=year))
        return
    for start in range(0, stat.st_size, PART_BYTES):
        end = min(start + PART_BYTES, stat.st_size)
        parts.append(Part(path=str(file), name=name, start=start, end=end, year=year))


def _is_record(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(64)
    return head[:1] == b"\x80" or (head.lstrip()[:1] == b"{")


def _is_text(file: Path) -> bool:
    """Text holds no more than a few control characters; .gz is judged when it is unpacked."""
    if file.suffix == ".gz":
        return True
    with file.open("rb") as opened:
        head = opened.read(_SNIFF_BYTES)
    return bool(head) and 20 * sum(map(head.count, _CONTROLS)) <= len(head)


def _journal(run: Path) -> Iterator[Line]:
    """Faults that were seen while the run went on, and its last steps by site."""
    for event in read_journal(run):
        if isinstance(event, Fault):
            text = f"isthmus fault {event.kind}: {event.subject}: {event.detail}"
        elif isinstance(event, CheckpointFailed):
            text = f"isthmus checkpoint of {event.what} failed: {event.reason}"
        else:
            continue
        yield Line(
            file=f"{FOLDER}/{event.source}",
            number=0,
            text=text,
            rank=_rank_of_source(event),
            wall_s=event.wall_s,
        )


def _rank_of_source(event: Fault | CheckpointFailed) -> int | None:
    """`rank/jinan/3` and `rank-jinan-3` name one, as source or as the subject of a fault."""
    subject = event.subject if isinstance(event, Fault) else ""
    for name in (subject, event.source):
        if match := _RANK.fullmatch(name):
            return int(match[1])
    return None
