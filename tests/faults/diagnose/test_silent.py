"""Culprits that write nothing, named by what the others write."""

import pytest

from .conftest import Diagnose


def watchdog(rank: int, seq: int = 41, op: str = "ALLREDUCE", size: int = 512) -> str:
    return (
        f"[rank{rank}]:[E x.cpp:616] [Rank {rank}] Watchdog caught collective operation timeout: "
        f"WorkNCCL(SeqNum={seq}, OpType={op}, NumelIn={size}, NumelOut={size}, Timeout(ms)=600000) ran for "
        f"600{rank:03d} milliseconds before timing out."
    )


def lines(*told: str) -> str:
    return "\n".join(told) + "\n"


def test_the_rank_that_is_not_among_those_that_timed_out(diagnosed: Diagnose):
    found = diagnosed(lines(*(watchdog(rank) for rank in (0, 1, 2, 4, 5, 6))))
    assert (found.best.kind, found.best.rank) == ("hang", 3)
    assert found.victims == (0, 1, 2, 4, 5, 6)


def test_the_number_of_ranks_tells_of_one_beyond_the_last(diagnosed: Diagnose):
    told = lines("world_size: 4", *(watchdog(rank) for rank in (0, 1, 2)))
    assert diagnosed(told).best.rank == 3


def test_another_operation_at_the_same_number_is_a_desync(diagnosed: Diagnose):
    found = diagnosed(lines(watchdog(0), watchdog(1), watchdog(2, op="BROADCAST"), watchdog(3)))
    assert (found.best.kind, found.best.rank) == ("desync", 2)
    assert found.best.action in ("alert_human", "fix_config")


def test_another_size_is_a_desync(diagnosed: Diagnose):
    found = diagnosed(lines(watchdog(0), watchdog(1, size=511), watchdog(2)))
    assert (found.best.kind, found.best.rank) == ("desync", 1)


def test_a_lower_number_is_behind(diagnosed: Diagnose):
    found = diagnosed(lines(watchdog(0), watchdog(1), watchdog(2, seq=40), watchdog(3)))
    assert (found.best.kind, found.best.rank) == ("hang", 2)


def test_all_that_timed_out_alike_name_nobody(diagnosed: Diagnose):
    found = diagnosed(lines(*(watchdog(rank) for rank in range(4))))
    assert (found.best.kind, found.best.rank) == ("hang", None)
    assert found.best.confidence < 0.6


def test_a_key_of_the_store_names_the_rank_that_did_not_come(diagnosed: Diagnose):
    found = diagnosed(
        lines(
            "[rank0]: Traceback (most recent call last):",
            "[rank0]: torch.DistStoreError: wait timeout after 9000ms, keys: /default_pg/0//cpu//0/2",
        )
    )
    assert (found.best.kind, found.best.rank) == ("rendezvous", 2)


def _notify(rank: int, remote: object) -> str:
    return (
        f"[rank{rank}]: EI0002: The Notify register has not received the record from remote rank: [{remote}]."
    )


def test_waiting_is_followed_to_its_end(diagnosed: Diagnose):
    found = diagnosed(lines(_notify(0, 1), _notify(1, 2), _notify(3, 1)))
    assert (found.best.kind, found.best.rank) == ("hang", 2)


@pytest.mark.parametrize("remotes", [(1, 2, 0), ("unknown", "unknown", "unknown")])
def test_a_circle_of_waiting_names_nobody(diagnosed: Diagnose, remotes: tuple[object, ...]):
    found = diagnosed(lines(*(_notify(rank, remote) for rank, remote in enumerate(remotes))))
    assert (found.best.kind, found.best.rank) == ("hang", None)


def test_timeouts_of_any_library_leave_the_one_without(diagnosed: Diagnose):
    summary = [
        f"  rank      : {rank} (local_rank: {rank})\n  exitcode  : {code} (pid: {900 + rank})"
        for rank, code in ((1, 1), (2, -15), (0, 1))
    ]
    found = diagnosed(
        lines(
            "[rank0]: RuntimeError: [unbound_buffer.cc:81] Timed out waiting 9000ms for send operation",
            "[rank1]: RuntimeError: [unbound_buffer.cc:81] Timed out waiting 9000ms for recv operation",
            "E0301 12:00:00.000000 8 api.py:1] failed (exitcode: 1) local_rank: 0 (pid: 900) of binary",
            *summary,
        )
    )
    assert (found.best.kind, found.best.rank) == ("hang", 2), "the launcher blames rank 0"


def test_a_rank_that_others_call_lost(diagnosed: Diagnose):
    found = diagnosed(lines("[rank0]: heartbeat lost of rank 5", "[rank1]: rank 5 has died", watchdog(0)))
    assert found.best.rank == 5


def test_a_rank_that_left_without_a_word(diagnosed: Diagnose):
    gone = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:58766."
    found = diagnosed(lines(f"[rank0]: {gone}", f"[rank2]: {gone}"))
    assert (found.best.kind, found.best.rank) == ("crash", 1)
    assert found.victims == (0, 2)


def test_a_barrier_that_watches_names_who_did_not_come(diagnosed: Diagnose):
    found = diagnosed(
        lines(
            "[rank0]: RuntimeError: Rank 5 failed to pass monitoredBarrier in 9000 ms",
            "[rank0]: RuntimeError: Timed out waiting 9000ms for recv operation",
        )
    )
    assert found.best.rank == 5


def test_a_rank_that_stood_and_was_killed_by_its_launcher_did_not_crash(diagnosed: Diagnose):
    waited = "RuntimeError: [unbound_buffer.cc:81] Timed out waiting 9000ms for recv operation"
    found = diagnosed(
        lines(
            f"[rank0]: {waited}",
            f"[rank1]: {waited}",
            "W0301 12:00:00.000000 8 api.py:1028] Sending process 902 closing signal SIGTERM",
            "Failures:",
            "  rank      : 2 (local_rank: 2)",
            "  exitcode  : -9 (pid: 902)  (SIGKILL)",
        )
    )
    assert (found.best.kind, found.best.rank) == ("hang", 2)
