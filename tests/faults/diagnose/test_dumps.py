"""Dumps of the Flight Recorder: plain data is read, everything else refused."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import InputError
from isthmus.faults.diagnose.dumps import parse_dump, rank_of_dump, read_dump

RECORD: dict[str, Any] = {
    "version": "2.9",
    "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
    "pg_status": {"0": {"last_enqueued_collective": 9, "last_completed_collective": 7}},
    "entries": [
        {
            "pg_id": 0, "process_group": ("0", "default_pg"), "collective_seq_id": 8, "p2p_seq_id": 0,
            "profiling_name": "nccl:all_reduce", "input_sizes": [[4]], "input_dtypes": ["Float"],
            "state": "scheduled", "retired": False, "is_p2p": False, "time_created_ns": 5,
        }
    ],
}  # fmt: skip


class _Runs:
    """Pickles to a call of os.system."""

    def __init__(self, command: str):
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self._command,))


@pytest.mark.parametrize("body", [pickle.dumps(RECORD, protocol=2), json.dumps(RECORD).encode()])
def test_pickled_and_json_dumps_say_the_same(body: bytes):
    dump = parse_dump(body, 1, "x")
    assert dump.groups == {"0": (0, 1)}
    assert dump.status == {"0": (7, 9)}
    (op,) = dump.ops
    assert (op.group, op.seq, op.name, op.done, op.p2p) == ("0", 8, "all_reduce", False, False)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path):
    witness = tmp_path / "witness"
    path = tmp_path / "_dump_0"
    path.write_bytes(pickle.dumps({**RECORD, "extra": _Runs(f"touch {witness}")}))
    with pytest.raises(InputError, match="refused"):
        read_dump(path, 0)
    assert not witness.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\x80\x02", b"\x80\x04\x95", b"{", b"[]", b"{}", b'{"entries": 3}', b"cos\nsystem\n(S'x'\ntR.",
        b"\x80\x02cbuiltins\neval\n.", b"Pid\n.", pickle.dumps(Path("x")), b"[" * 100_000,
        json.dumps({**RECORD, "pg_config": {"0": {"ranks": "__import__('os')"}}}).encode(),
        json.dumps({**RECORD, "pg_config": {"0": 4}}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_dump_is_refused(body: bytes):
    with pytest.raises(InputError):
        parse_dump(body, 0, "x")


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("_dump_3", 3),
        ("nccl_trace_rank_12", 12),
        ("fr_dump_0.json", 0),
        ("train.log", None),
        ("rank_3.log", None),
    ],
)
def test_dumps_are_known_by_name(name: str, rank: int | None):
    assert rank_of_dump(Path(name)) == rank


def test_a_status_that_an_entry_contradicts_is_not_used():
    other = {**RECORD, "entries": [{**RECORD["entries"][0], "process_group": ("7", "x")}]}
    assert parse_dump(json.dumps(other).encode(), 0, "x").status == {}
