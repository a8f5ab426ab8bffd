"""Rules of cause and effect, each by a log as it is met."""

import random
from pathlib import Path

import pytest

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.diagnose.run import diagnose

from .conftest import Diagnose


def died(rank: int, code: int, *others: int) -> str:
    told = [
        f"[{i}]:\n  rank      : {o} (local_rank: {o})\n  exitcode  : -15 (pid: {70 + o})"
        for i, o in enumerate(others, 1)
    ]
    told += ["Root Cause (first observed failure):", "[0]:", f"  rank      : {rank} (local_rank: {rank})"]
    return "\n".join([*told, f"  exitcode  : {code} (pid: {70 + rank})", ""])  # fmt: skip


def peer_gone(rank: int) -> str:
    return (
        f"[rank{rank}]: Traceback (most recent call last):\n"
        f"[rank{rank}]: RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:58766.\n"
    )


def raised(rank: int, *last: str) -> str:
    said = ["Traceback (most recent call last):", '  File "t.py", line 3, in f', *last]
    return "".join(f"[rank{rank}]: {line}\n" for line in said)


def test_a_victim_that_tells_first_is_not_blamed(diagnosed: Diagnose):
    found = diagnosed(
        peer_gone(0) + peer_gone(1) + raised(3, "RuntimeError: CUDA out of memory. Tried to allocate")
    )
    assert (found.best.kind, found.best.rank, found.best.entry) == ("oom_device", 3, "OOM-DEVICE")
    assert found.victims == (0, 1)
    assert found.culprits == (3,)


def test_an_exception_that_nothing_describes_is_the_programs(diagnosed: Diagnose):
    found = diagnosed(raised(2, "KeyError: 'position_ids'") + peer_gone(0) + peer_gone(1) + died(2, 1, 0, 1))
    assert (found.best.kind, found.best.rank) == ("user_code", 2)
    assert found.best.action == "alert_human"


def test_of_a_chain_of_exceptions_the_first_is_the_root(diagnosed: Diagnose):
    text = raised(1, "TypeError: bad argument", "", "During handling of the above exception:")
    found = diagnosed(text + raised(1, "ZeroDivisionError: division by zero"))
    assert any("TypeError" in each.text for each in found.evidence)
    assert "TypeError" in found.cause


def test_a_message_that_goes_on_below_the_exception_counts(diagnosed: Diagnose):
    found = diagnosed(raised(1, "RuntimeError: call failed, error code is 6", "  EI0002: waited for notify"))
    assert found.best.kind == "hang"


def test_nan_though_it_is_an_assertion(diagnosed: Diagnose):
    found = diagnosed(raised(3, "AssertionError: Rank 3: found NaN in local grad norm"))
    assert (found.best.kind, found.best.rank, found.best.action) == ("nan", 3, "rollback")


def test_among_ranks_that_print_the_same_the_launcher_knows_the_first(diagnosed: Diagnose):
    text = "".join(raised(rank, "FloatingPointError: found nan in loss") for rank in (0, 2, 1))
    assert diagnosed(text + died(1, 1, 0, 2)).best.rank == 1


def test_a_stream_that_cannot_be_written_is_a_full_disk(diagnosed: Diagnose):
    found = diagnosed(
        raised(0, "RuntimeError: basic_ios::clear: iostream error")
        + raised(0, "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 448 vs 400")
        + peer_gone(1)
    )
    assert (found.best.kind, found.best.rank) == ("disk_full", 0)
    assert found.best.action not in ("retry", "restart_rank")


def test_a_full_disk_with_a_bus_error_is_shared_memory(diagnosed: Diagnose):
    found = diagnosed(
        "OSError: [Errno 28] No space left on device\n"
        "RuntimeError: DataLoader worker (pid 5) is killed by signal: Bus error.\n"
    )
    assert found.best.kind == "oom_shm"


def test_a_kill_needs_evidence_to_be_memory(diagnosed: Diagnose):
    killed = peer_gone(0) + died(1, -9, 0)
    alone = diagnosed(killed)
    assert (alone.best.kind, alone.best.rank) == ("crash", 1)
    assert 0 in alone.victims
    known = diagnosed(killed, syslog="Mar  1 12:00:00 n1 kernel: Out of memory: Killed process 71 (python)\n")
    assert (known.best.kind, known.best.rank) == ("oom_host", 1)


def test_a_rank_that_its_agent_ended_is_a_victim(diagnosed: Diagnose):
    found = diagnosed(raised(1, "ValueError: x") + died(1, 1, 0, 2))
    assert found.best.rank == 1
    assert found.victims == (0, 2)


def test_noise_of_the_bus_before_a_lost_device(diagnosed: Diagnose):
    found = diagnosed(
        "[   10.0] pcieport 0000:16:01.0: AER: Corrected error received: 0000:17:00.0\n"
        "[   11.0] NVRM: Xid (PCI:0000:17:00): 43, pid=5, name=python\n"
        "[   12.0] NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.\n"
    )
    assert (found.best.kind, found.best.place) == ("device_lost", "0000:17:00")
    assert found.best.action == "replace_node", "the entry would restart on it"


def test_another_size_aborts_the_receiver(diagnosed: Diagnose):
    text = (
        "terminate called after throwing an instance of 'gloo::EnforceNotMet'\n"
        "  what():  [enforce fail at pair.cc:456] op.preamble.length <= op.nbytes. 2629 vs 1972.\n"
    )
    found = diagnosed(text + peer_gone(0) + died(1, -6, 0))
    assert (found.best.kind, found.best.rank) == ("desync", 1)


def test_an_abort_of_its_own_is_a_crash(diagnosed: Diagnose):
    found = diagnosed(peer_gone(0) + peer_gone(1) + died(2, -6, 0, 1))
    assert (found.best.kind, found.best.rank) == ("crash", 2)


def test_the_one_with_another_setting(diagnosed: Diagnose):
    found = diagnosed(
        "[trainer3] n3:19:19 [3] NCCL INFO NCCL_SOCKET_IFNAME set by environment to eth2\n"
        "[trainer0] NCCL WARN Bootstrap : no socket interface found\n"
    )
    assert (found.best.kind, found.best.rank, found.best.action) == ("config", 3, "fix_config")


def test_what_training_outlived_is_not_blamed(diagnosed: Diagnose):
    steps = "".join(f"iteration {step} | loss 2.3\n" for step in range(20))
    found = diagnosed(
        f"PermissionError: cannot write a cache\n{steps}{raised(1, 'RuntimeError: CUDA out of memory')}"
    )
    assert found.best.kind == "oom_device"


def test_the_earlier_of_two_alike_by_the_clock(diagnosed: Diagnose):
    found = diagnosed(
        rank_0__log="2026-03-01 12:00:09 ERROR uncorrectable ECC error\n",
        rank_1__log="2026-03-01 12:00:02 ERROR CUDA out of memory\n",
    )
    assert (found.best.kind, found.best.rank) == ("oom_device", 1)


def test_processes_are_known_by_lines_that_show_rank_and_pid(diagnosed: Diagnose):
    found = diagnosed(
        "[ERROR] 2026-03-01-12:00:00 (PID:4711, Device:2, RankID:10) ERR00100\n"
        "[ERROR] RUNTIME(4711,python):2026-03-01-12:00:01.000.000 uncorrectable ECC\n"
    )
    assert found.best.rank == 10


def test_nothing_known_is_said_so(diagnosed: Diagnose):
    found = diagnosed("iteration 3 | loss 2.3\nall is well\n")
    assert (found.best.kind, found.best.action, found.best.confidence) == (None, "alert_human", 0.0)


def test_the_order_of_files_does_not_matter(tmp_path: Path, entries: list[Entry]):
    bodies = [
        peer_gone(0),
        raised(3, "RuntimeError: CUDA out of memory"),
        peer_gone(1),
        raised(2, "KeyError: 'a'"),
    ]
    paths = []
    for index, body in enumerate(bodies):
        paths.append(tmp_path / f"{index}.log")
        paths[-1].write_text(body)
    told = set()
    for seed in range(6):
        random.Random(seed).shuffle(paths)
        best = diagnose(paths, entries).diagnosis.best
        told.add((best.kind, best.rank, best.confidence))
    assert len(told) == 1
    assert told.pop()[:2] == ("oom_device", 3)


@pytest.mark.parametrize("code", [-11, -7, 139])
def test_other_signals_are_crashes(diagnosed: Diagnose, code: int):
    found = diagnosed(peer_gone(0) + died(1, code, 0))
    assert (found.best.kind, found.best.rank) == ("crash", 1)


@pytest.mark.parametrize(
    "told",
    [
        "srun: error: node12: task 3: Killed",
        "srun: error: node12: task 3: Segmentation fault (core dumped)",
        "mpirun noticed that process rank 3 with PID 4211 on node n1 exited on signal 11.",
    ],
)
def test_other_launchers_tell_who_died(diagnosed: Diagnose, told: str):
    found = diagnosed(peer_gone(0) + told + "\n")
    assert (found.best.kind, found.best.rank) == ("crash", 3)


def test_an_incident_long_before_is_another_one(diagnosed: Diagnose):
    found = diagnosed(
        "2026-03-01T04:00:00Z NVRM: uncorrectable ECC\n2026-03-01T08:30:00Z kernel: oom-kill:constraint=X\n"
    )
    assert found.best.kind == "oom_host"
