"""Lines are found whatever the size of blocks and parts, and counted right."""

import gzip
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose import scan as scanning
from isthmus.faults.diagnose.patterns import Patterns
from isthmus.faults.diagnose.scan import KEEP_FIRST, Part, Scanner, scan
from isthmus.faults.diagnose.timeline import merge

FAULT = "[rank3]: CUDA out of memory"


def _filler(count: int) -> str:
    return "".join(f"2026-03-01 12:00:00,000 INFO tokens/s={index}\n" for index in range(count))


def _part(path: Path) -> Part:
    return Part(path=str(path), name=path.name)


def test_a_line_far_inside_is_found_with_its_number(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log"
    path.write_text(f"{_filler(70_000)}{FAULT}\n{_filler(10)}")
    found = Scanner(entries)(_part(path))
    assert [(line.number, line.rank, line.entries) for line in found.lines] == [(70_001, 3, ("OOM-DEVICE",))]
    assert found.num_lines == 70_011
    assert found.num_bytes == path.stat().st_size


@pytest.mark.parametrize("size", [1, 7, 40, 300, 5000])
def test_parts_find_what_the_whole_finds(tmp_path: Path, entries: list[Entry], size: int):
    path = tmp_path / "a.log"
    path.write_text(
        f"x\n{FAULT}\n\n{_filler(2)}{FAULT} again\nConnection closed by peer\nend without newline"
    )
    whole = merge(scan([_part(path)], entries))
    cuts = [*range(0, path.stat().st_size, size), path.stat().st_size]
    parts = [Part(path=str(path), name="a.log", start=start, end=end) for start, end in pairwise(cuts)]
    cut = merge(scan(parts, entries))
    assert [(line.number, line.text) for line in cut] == [(line.number, line.text) for line in whole]
    assert sum(each.num_lines for each in scan(parts, entries)) == 8


def test_processes_find_what_one_finds(tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    for rank in range(3):
        (tmp_path / f"rank_{rank}.log").write_text(_filler(100) + FAULT + "\n")
    parts = [_part(path) for path in sorted(tmp_path.iterdir())]
    alone = scan(parts, entries)
    monkeypatch.setattr(scanning, "PARALLEL_BYTES", 1)
    assert scan(parts, entries) == alone


def test_packed_files_are_read(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log.gz"
    path.write_bytes(gzip.compress((_filler(50) + FAULT + "\n").encode()))
    found = Scanner(entries)(_part(path))
    assert [line.number for line in found.lines] == [51]


def test_a_torn_packed_file_is_told_and_read_as_far_as_it_goes(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log.gz"
    path.write_bytes(gzip.compress(FAULT.encode())[:-6])
    assert "a.log.gz" in Scanner(entries)(_part(path)).problem


def test_repeated_lines_are_capped_and_counted(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log"
    path.write_text((FAULT + "\n") * 1000)
    lines = Scanner(entries)(_part(path)).lines
    assert [line.number for line in lines] == [1, 2, 3, 4, 1000]
    assert len(lines) == KEEP_FIRST + 1
    assert lines[-1].count == 1000


def test_lines_end_as_on_windows_too(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log"
    path.write_bytes(b"one\r\n[rank1]: KeyError: 'x'\r\n")
    (line,) = Scanner(entries)(_part(path)).lines
    assert (line.number, line.text, line.entries) == (2, "KeyError: 'x'", ("PLAIN",))


def test_signatures_mean_what_python_says(entries: list[Entry]):
    looking = msgspec.structs.replace(entries[0], id="LOOK", signature=[r"error(?! correction)", r"(a)b\1"])
    patterns = Patterns([looking])
    names = {index: patterns.name(index) for index in patterns.candidates(b"error correction on")}
    assert "LOOK" in names.values(), "RE2 has no look-ahead: it finds more"
    assert not any(patterns.confirm(index, "error correction on") for index in names)
    assert any(patterns.confirm(index, "error 5") for index in patterns.candidates(b"error 5"))
    assert any(patterns.name(index) == "LOOK" for index in patterns.candidates(b"x aba y"))


def test_a_line_without_time_has_that_of_the_lines_above(tmp_path: Path, entries: list[Entry]):
    path = tmp_path / "a.log"
    path.write_text(f"2026-03-01 12:00:00 start\nTraceback\n{FAULT}\n")
    assert [line.wall_s for line in Scanner(entries)(_part(path)).lines] == [1772366400.0]
