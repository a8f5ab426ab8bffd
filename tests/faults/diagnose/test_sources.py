"""What is taken for a log, a record, a run; and that no bytes break the readers."""

import errno
import io
import json
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose.dumps import parse_dump
from isthmus.faults.diagnose.lines import read_author
from isthmus.faults.diagnose.run import diagnose
from isthmus.faults.diagnose.sources import find
from isthmus.faults.diagnose.times import wall_of
from isthmus.journal.events import Fault
from isthmus.journal.writer import Journal
from isthmus.ui.diagnosed import show


def test_folders_are_searched_and_what_is_no_log_is_left(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.log").write_text("no")
    (tmp_path / "a" / "b" / "train.out").write_text("yes")
    (tmp_path / "a" / "weights.safetensors").write_bytes(b"no")
    (tmp_path / "a" / "core.7").write_bytes(bytes(5000))
    assert [part.name for part in find([tmp_path]).parts] == ["a/b/train.out"]


def test_a_path_that_is_not_there(tmp_path: Path):
    with pytest.raises(NotFoundError) as raised:
        find([tmp_path / "nowhere"])
    assert raised.value.hint


def test_nothing_readable(tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(InputError):
        find([tmp_path])
    (tmp_path / "_dump_0").write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(InputError, match="refused"):
        find([tmp_path])


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.log", b"", "no text"),
        ("a.log", random.Random(1).randbytes(5000), "no text"),
        ("a.log", "[rank1]: CUDA out of memory".encode("utf-16"), "no text"),
        ("a.log.gz", b"", "no text"),
        ("a.log.gz", b"no gzip at all", "a.log.gz: Not a gzipped file"),
        ("_dump_0", b"", "no text"),
    ],
)
def test_a_file_of_which_nothing_can_be_read(
    tmp_path: Path, entries: list[Entry], name: str, body: bytes, said: str
):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=said) as raised:
        diagnose([tmp_path / name], entries)
    assert raised.value.hint


def test_a_file_that_may_not_be_read(tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.log").write_text("[rank1]: CUDA out of memory\n")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "a.log")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"a\.log: Permission denied"):
        diagnose([tmp_path / "a.log"], entries)


def test_what_could_not_be_read_is_told_where_no_fault_was_found(tmp_path: Path, entries: list[Entry]):
    (tmp_path / "a.log").write_text("all is well\n")
    (tmp_path / "b.log.gz").write_bytes(b"no gzip at all")
    examined = diagnose([tmp_path], entries)
    assert examined.diagnosis.best.kind is None
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(show(examined))
    assert "not read: b.log.gz" in console.export_text()


def test_a_bad_record_beside_logs_is_told(tmp_path: Path, entries: list[Entry]):
    (tmp_path / "_dump_0").write_bytes(b"\x80\x02cos\nsystem\n.")
    (tmp_path / "train.log").write_text("[rank1]: CUDA out of memory\n")
    examined = diagnose([tmp_path], entries)
    assert examined.diagnosis.best.rank == 1
    assert any("_dump_0" in problem for problem in examined.problems)


def test_records_and_logs_are_read_together(tmp_path: Path, entries: list[Entry]):
    for rank in range(3):
        pending = {
            "process_group": ["0", "default_pg"], "collective_seq_id": 4 if rank == 1 else 5,
            "is_p2p": False,
            "profiling_name": "gloo:all_reduce", "state": "scheduled", "retired": rank == 1,
            "input_sizes": [[3]],
        }  # fmt: skip
        record = {"pg_config": {"0": {"ranks": "[0, 1, 2]", "desc": "world"}}, "entries": [pending]}
        (tmp_path / f"_dump_{rank}").write_text(json.dumps(record))
    found = diagnose([tmp_path], entries).diagnosis
    assert (found.best.kind, found.best.rank, found.culprits) == ("hang", 1, (1,))
    assert any("world" in each.text for each in found.evidence)
    (tmp_path / "n1.log").write_text("[rank1]: uncorrectable ECC error\n")
    found = diagnose([tmp_path], entries).diagnosis
    assert (found.best.kind, found.best.rank) == ("ecc", 1), "the log says why it did not come"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=3000), name=st.sampled_from(["a.log", "a.gz", "_dump_1", "rank_2.log", "x.json"])
)
def test_no_bytes_break_the_readers(tmp_path: Path, entries: list[Entry], body: bytes, name: str):
    path = tmp_path / name
    path.write_bytes(body)
    with suppress(InputError):
        diagnose([path], entries)


_WORDS = st.sampled_from(
    [
        "[rank3]:", "rank", ":", "7", "exitcode", "-9", "pid", "(pid: 99999999999999999999)",
        "OpType=X",
        "2026-03-01 12:00:00.5", "W0301", "SeqNum=5,", "WorkNCCL(", "EI0002", "remote rank", "[",
        "4294967295",
        "]",
        "Root Cause (first observed failure):", "CUDA out of memory", "KeyError:", "Traceback", "\n",
        "nranks", "99999999999", "world_size:", "1e9", "[default7]:", "[1]", "device_id=5", "//cpu//0/1",
        "0000:17:00.0", "Watchdog caught collective operation timeout", "Connection closed by peer",
    ]
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(_WORDS, max_size=60))
def test_no_line_breaks_the_rules(tmp_path: Path, entries: list[Entry], words: list[str]):
    path = tmp_path / "a.log"
    path.write_text(" ".join(words) + "\n")
    found = diagnose([path], entries).diagnosis
    assert 0 <= found.best.confidence <= 1
    assert not set(found.culprits) & set(found.victims)


@given(st.text(max_size=300))
def test_any_text_has_a_writer_and_perhaps_a_time(text: str):
    read_author(text)
    wall_of(text, 2026)


_PLAIN = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(_PLAIN)
def test_any_plain_data_is_a_dump_or_refused(data: object):
    wrapped = {"entries": [data], "pg_config": {"0": data}, "pg_status": {"0": data}}
    for body in (pickle.dumps(wrapped, protocol=2), json.dumps(wrapped).encode()):
        with suppress(InputError):
            parse_dump(body, 0, "x")


def test_faults_of_a_journal_are_evidence(tmp_path: Path, entries: list[Entry]):
    with Journal(tmp_path, "site/jinan") as journal:
        journal.emit(Fault(subject="rank/jinan/3", kind="rank_died", detail="exit code -9: "))
    found = diagnose([tmp_path], entries).diagnosis
    assert (found.best.kind, found.best.rank) == ("crash", 3)
    with Journal(tmp_path, "site/jinan") as journal:
        journal.emit(Fault(subject="rank/jinan/3", kind="rank_died", detail="CUDA out of memory"))
    assert diagnose([tmp_path], entries).diagnosis.best.kind == "oom_device"
