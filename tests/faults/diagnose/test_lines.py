"""Rank, time and place of single lines."""

import pytest

from isthmus.faults.diagnose.lines import Line, author_of_file, place_of, read_author
from isthmus.faults.diagnose.times import wall_of

YEAR = 2026
NOON = 1772366400.0
"""2026-03-01 12:00 UTC"""


@pytest.mark.parametrize(
    ("raw", "rank", "text"),
    [
        ("[rank3]: ValueError: x", 3, "ValueError: x"),
        ("[rank12]:[E x.cpp:616] [Rank 12] Watchdog", 12, "[E x.cpp:616] [Rank 12] Watchdog"),
        ("17: RuntimeError: y", 17, "RuntimeError: y"),
        (" 5: [rank5]: RuntimeError: y", 5, "RuntimeError: y"),
        ("[trainer2] ncclInternalError", 2, "ncclInternalError"),
        ("[ERROR] 2026-03-01-12:00:00 (PID:9, Device:1, RankID:9) ERR00100 PTA call failed", 9, None),
        ("AssertionError: Rank 3: found NaN in local grad norm", 3, None),
        ("2026-03-01 12:00:00,000 INFO [Rank 7] step=3", 7, None),
        ("rank      : 2 (local_rank: 0)", 2, None),
        ("has not received the record from remote rank: 6", None, None),
        ("h1:100:200 [4] NCCL WARN Call to connect failed", None, None),
        ("worker-1: EH9999: failed", None, "EH9999: failed"),
        ("loss 3: fine", None, None),
    ],
)  # fmt: skip
def test_the_rank_that_wrote_a_line(raw: str, rank: int | None, text: str | None):
    author, said = read_author(raw)
    assert author.rank == rank
    assert said == (raw if text is None else text)


def test_what_else_a_line_tells_of_its_writer():
    assert read_author("[default3]: oops")[0].local_rank == 3
    nccl, _ = read_author("gpu7:4213:4399 [5] NCCL WARN Cuda failure")
    assert (nccl.node, nccl.pid, nccl.device) == ("gpu7", 4213, 5)
    ray, text = read_author("(WorkerDict pid=904548, ip=10.0.0.7) boom")
    assert (ray.pid, ray.node, text) == (904548, "10.0.0.7", "boom")
    assert read_author("[ERROR] HCCL(26251,python3):2026-03-01-12:00:00.476.125 x")[0].pid == 26251
    assert read_author("worker-1: EH9999: failed")[0].node == "worker-1"
    assert read_author("failed (exitcode: 1) local_rank: 2 (pid: 77) of binary")[0].local_rank == 2


@pytest.mark.parametrize(
    "raw",
    [
        "2026-03-01T12:00:00Z ready",
        "2026-03-01 12:00:00,000 INFO",
        "[2026-03-01 12:00:00.000] [INFO]",
        "kern  :warn  : 2026-03-01T14:00:00,000000+02:00 NVRM",
        "[ERROR] HCCL(9,python):2026-03-01-12:00:00.000.000 [x.cc:1]",
        "2026/03/01 12:00:00 worker",
        "[rank0]:W0301 12:00:00.000000 12 torch/distributed/x.py:1] y",
        "[Sun Mar  1 12:00:00 2026] NVRM: Xid",
        "Mar  1 12:00:00 node7 kernel: oops",
        "1772366400.0 started",
        '{"level": "error", "ts": 1772366400.0}',
    ],
)
def test_all_forms_of_time_mean_the_same(raw: str):
    assert wall_of(raw, YEAR) == NOON


@pytest.mark.parametrize(
    "raw", ["[ 1843.308145] NVRM", "no time", "2026-13-41 12:00:00 x", "Foo  1 12:00:00 x", ""]
)
def test_no_time_is_made_up(raw: str):
    assert wall_of(raw, YEAR) is None


def test_fractions_of_a_second_are_kept():
    assert wall_of("2026-03-01-12:00:00.250.500", YEAR) == NOON + 0.2505


@pytest.mark.parametrize(
    ("name", "rank", "local_rank"),
    [
        ("rank_3.log", 3, None),
        ("logs/global_rank12.out", 12, None),
        ("job/attempt_0/2/stderr.log", None, 2),
        ("crank3.log", None, None),
        ("logs/rank-jinan-3.log", 3, None),
        ("train.log", None, None),
    ],
)
def test_what_the_name_of_a_file_tells(name: str, rank: int | None, local_rank: int | None):
    author = author_of_file(name)
    assert (author.rank, author.local_rank) == (rank, local_rank)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("NVRM: The NVIDIA GPU 0000:b3:00.0", "0000:b3:00.0"),
        ("NVRM: Xid (PCI:0000:9b:00): 119", "0000:9b:00"),
        ("cqe err status[12], ip:[192.1.95.102]", "192.1.95.102"),
        ("mlx5_3 Link DOWN", "mlx5_3"),
    ],
)
def test_the_place_a_line_names(text: str, place: str):
    assert place_of(Line(file="a", number=1, text=text)) == place
