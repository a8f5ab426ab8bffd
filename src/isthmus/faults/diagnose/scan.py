"""Files of logs -> the few lines that matter. Large inputs are shared out over the cores."""

import gzip
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import msgspec

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose.lines import MAX_TEXT, Line, author_of_file, read_author
from isthmus.faults.diagnose.patterns import Patterns
from isthmus.faults.diagnose.times import wall_of

BLOCK_BYTES = 64 << 10
READ_BYTES = 1 << 20
PART_BYTES = 64 << 20
"""Longer files are read in parts, so that all cores have work."""
PARALLEL_BYTES = 48 << 20
"""Less than this is not worth starting processes for."""
SEE_RANKS_EVERY = 16
"""Chunks; of one in so many the prefixes are read."""
KEEP_FIRST = 4
"""Lines of one kind and rank that are kept from the beginning of a file; of later ones the last is."""
FLOOD = 20_000
"""After so many lines of one kind in a part, one in FLOOD_KEEP is read."""
FLOOD_KEEP = 64
MAX_LINES = 20_000
"""Kept lines of one part."""
LOOK_BACK_BYTES = 4000
"""So far above a line its time is looked for."""
_PROGRESS = re.compile(
    rb"\b(?:iteration|iter|global_step|step|steps)\b[\"' ]{0,2}[ =:\[]{1,3} *\d+|\d+/\d+ \[\d+:\d+<",
    re.IGNORECASE,
)
_SURVIVED = 3
"""Steps after a line that show that training went on."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a file, from a beginning of a line up to `end`; 0: all of it."""

    path: str
    name: str
    """As it is shown."""
    start: int = 0
    end: int = 0
    year: int = 1970
    """For times without one."""


class Scanned(msgspec.Struct, frozen=True, kw_only=True):
    part: Part
    lines: tuple[Line, ...]
    num_lines: int
    num_bytes: int
    progress: int = 0
    """Number of the line from which on only few steps follow; 0: no steps are told."""
    progress_s: float | None = None
    ranks: tuple[int, ...] = ()
    """Ranks that have written, as far as prefixes tell."""
    problem: str = ""


Tell = Callable[[int, int], None]
"""(bytes done, bytes in all)"""


def scan(parts: Sequence[Part], entries: Sequence[Entry], tell: Tell | None = None) -> list[Scanned]:
    """Order of the answers is that of the parts."""
    sizes = [_size(part) for part in parts]
    total, workers = sum(sizes), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    if total < PARALLEL_BYTES or workers < 2 or len(parts) < 2:
        answers = map(Scanner(entries), parts)
        return list(_told(answers, total, tell))
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, 16), context, _start, (list(entries),)) as pool:
        return list(_told(pool.map(_scan_part, parts), total, tell))


def _told(answers: Iterator[Scanned], total: int, tell: Tell | None) -> Iterator[Scanned]:
    done, last_s = 0, time.monotonic()
    for answer in answers:
        done += answer.num_bytes
        if tell and time.monotonic() - last_s > 1:
            tell(done, total)
            last_s = time.monotonic()
        yield answer


_worker: list["Scanner"] = []


def _start(entries: list[Entry]) -> None:
    _worker[:] = [Scanner(entries)]


def _scan_part(part: Part) -> Scanned:
    return _worker[0](part)


def _size(part: Part) -> int:
    return (part.end or Path(part.path).stat().st_size) - part.start


def match(lines: Sequence[Line], entries: Sequence[Entry]) -> list[Line]:
    """Lines that are no file's, with the entries whose signature they match."""
    patterns = Patterns(entries)
    return [msgspec.structs.replace(line, entries=patterns.entries_in(line.text)) for line in lines]


class Scanner:
    """Scans parts with one set of patterns."""

    def __init__(self, entries: Sequence[Entry]):
        self._patterns = Patterns(entries)

    def __call__(self, part: Part) -> Scanned:
        keep, problem = _Keep(part), ""
        number, num_bytes, last = 0, 0, b""
        tail: list[tuple[bytes, int]] = []
        try:
            with _open(part) as file:
                for index, chunk in enumerate(_chunks(file, part)):
                    if index % SEE_RANKS_EVERY == 0:
                        keep.see_ranks(chunk)
                    self._read(chunk, number, keep)
                    tail = [*tail[-1:], (chunk, number)]
                    number += chunk.count(b"\n")
                    num_bytes += len(chunk)
                    last = chunk[-1:]
        except (OSError, EOFError, zlib.error) as error:
            problem = f"{part.name}: {getattr(error, 'strerror', None) or error}"
        told = (_progress(chunk, above, part.year) for chunk, above in reversed(tail))
        progress = next((each for each in told if each), (0, None))
        return Scanned(
            part=part,
            lines=keep.lines(),
            num_lines=number + (last not in (b"", b"\n")),
            num_bytes=num_bytes,
            progress=progress[0],
            progress_s=progress[1],
            ranks=tuple(sorted(keep.ranks)),
            problem=problem,
        )

    def _read(self, chunk: bytes, number: int, keep: "_Keep") -> None:
        start = 0
        while start < len(chunk):
            end = chunk.rfind(b"\n", start, start + BLOCK_BYTES) + 1
            if not end or end >= len(chunk):
                end = len(chunk) if len(chunk) - start <= BLOCK_BYTES else start + BLOCK_BYTES
            block = chunk[start:end]
            if b"\0" in block:
                block = block.replace(b"\0", b" ")
            if self._patterns.candidates(block):
                self._read_block(block, number, keep)
            number += block.count(b"\n")
            start = end

    def _read_block(self, block: bytes, number: int, keep: "_Keep") -> None:
        """Halves it until single lines are left: most of a block says nothing."""
        pieces = [(0, len(block), number)]
        while pieces:
            start, end, above = pieces.pop()
            candidates = self._patterns.candidates(block[start:end])
            if not candidates:
                continue
            cut = block.find(b"\n", (start + end) // 2, end - 1) + 1
            cut = cut or block.rfind(b"\n", start, (start + end) // 2) + 1
            if cut:
                pieces += [(cut, end, above + block.count(b"\n", start, cut)), (start, cut, above)]
            elif not keep.is_flooded(candidates):
                before = block[max(0, start - LOOK_BACK_BYTES) : start].split(b"\n")
                raw = block[start:end].rstrip(b"\r\n").decode("utf-8", "replace")
                self._read_line(raw, above + 1, candidates, before, keep)

    def _read_line(
        self, raw: str, number: int, candidates: list[int], above: list[bytes], keep: "_Keep"
    ) -> None:
        author, text = read_author(raw)
        sure = [
            index
            for index in candidates
            if self._patterns.confirm(index, raw) or (text != raw and self._patterns.confirm(index, text))
        ]
        if not sure:
            return
        own = keep.author
        wall_s = wall_of(raw, keep.part.year)
        if wall_s is None:
            wall_s = next((w for each in reversed(above) if (w := _wall(each, keep.part.year))), None)
        names = [self._patterns.name(index) for index in sure if index >= self._patterns.num_structure]
        line = Line(
            file=keep.part.name,
            number=number,
            text=text[:MAX_TEXT],
            rank=author.rank if author.rank is not None else own.rank,
            local_rank=author.local_rank if author.local_rank is not None else own.local_rank,
            pid=author.pid if author.pid is not None else own.pid,
            device=author.device if author.device is not None else own.device,
            node=author.node,
            wall_s=wall_s,
            entries=tuple(dict.fromkeys(names)),
        )
        keep.add(line, sure)


class _Keep:
    """Lines that are kept, the first few and the last of each kind and rank, and their number."""

    def __init__(self, part: Part):
        self.part = part
        self.author = author_of_file(part.name)
        self.ranks: set[int] = set() if self.author.rank is None else {self.author.rank}
        self._first: dict[int, Line] = {}
        self._kinds: dict[tuple[int, ...], int] = {}
        self._counts: dict[tuple[int, object], int] = {}
        self._last: dict[tuple[int, object], tuple[int, Line]] = {}

    def see_ranks(self, block: bytes) -> None:
        if self.author.rank is None and b"[rank" in block:
            self.ranks.update(int(match) for match in set(_PREFIX.findall(block)))

    def is_flooded(self, candidates: list[int]) -> bool:
        kind = tuple(candidates)
        count = self._kinds[kind] = self._kinds.get(kind, 0) + 1
        return count > FLOOD and count % FLOOD_KEEP != 0

    def add(self, line: Line, kinds: list[int]) -> None:
        who = line.rank if line.rank is not None else (line.node, line.pid, line.device)
        for kind in kinds:
            count = self._counts[kind, who] = self._counts.get((kind, who), 0) + 1
            if count <= KEEP_FIRST and len(self._first) < MAX_LINES:
                self._first.setdefault(line.number, line)
            elif count > KEEP_FIRST and len(self._last) < MAX_LINES:
                self._last[kind, who] = (count, line)

    def lines(self) -> tuple[Line, ...]:
        kept = dict(self._first)
        for count, line in self._last.values():
            if line.number not in self._first:
                kept[line.number] = msgspec.structs.replace(line, count=count)
        return tuple(kept[number] for number in sorted(kept))


_PREFIX = re.compile(rb"\[rank(\d{1,6})\]:")


def _wall(line: bytes, year: int) -> float | None:
    return wall_of(line[:MAX_TEXT].decode("utf-8", "replace"), year)


def _progress(chunk: bytes, number: int, year: int) -> tuple[int, float | None] | None:
    """Line number, and time, of the third last step told in a chunk."""
    told = [match.start() for match in _PROGRESS.finditer(chunk[-BLOCK_BYTES:])]
    skipped = max(0, len(chunk) - BLOCK_BYTES)
    starts = list(dict.fromkeys(chunk.rfind(b"\n", 0, skipped + each) + 1 for each in told))
    if len(starts) < _SURVIVED:
        return None
    start = starts[-_SURVIVED]
    line = chunk[start : start + MAX_TEXT].split(b"\n", 1)[0]
    return number + chunk.count(b"\n", 0, start) + 1, _wall(line, year)


def _open(part: Part) -> BinaryIO:
    """Raises OSError."""
    if part.path.endswith(".gz"):
        return gzip.open(part.path, "rb")  # pyright: ignore[reportReturnType]
    return Path(part.path).open("rb")


def _chunks(file: BinaryIO, part: Part) -> Iterator[bytes]:
    """Whole lines, about READ_BYTES at a time. A line at the border belongs to the part it begins in."""
    position = part.start
    if part.start:
        file.seek(part.start - 1)
        position += len(file.readline()) - 1
    rest = b""
    while not part.end or position < part.end:
        body = file.read(READ_BYTES)
        if not body:
            break
        body = rest + body
        cut = body.rfind(b"\n") + 1
        if part.end and position + len(body) >= part.end:
            cut = body.find(b"\n", max(0, part.end - position - 1)) + 1 or cut
        if not cut:
            if len(body) < 4 * READ_BYTES:
                rest = body
                continue
            cut = len(body)
        yield body[:cut]
        rest, position = body[cut:], position + cut
    if rest and (not part.end or position < part.end):
        yield rest
