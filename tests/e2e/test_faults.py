"""Processes are killed in mid-run: the run goes on, and no sample is lost or merged twice."""

import os
import signal

import pytest

pytestmark = pytest.mark.timeout(240)


def steps(run, site: str) -> int:
    return sum(event.site == site for event in run.events("StepDone"))


def test_the_server_is_killed(long):
    process = long.train()
    long.wait_for("VersionPublished", 2)
    long.kill("isthmus.outer.server")
    died = long.wait_for("Fault", kind="server_died")[0].wall_s
    long.end(process)
    long.check_whole()
    assert [event.server_epoch for event in long.events("ServerStarted")] == [1, 2]
    assert long.events("Recovered")
    assert not [event for event in long.events("Fault") if event.kind in ("rank_died", "client_died")]
    back = long.events("ServerStarted")[1].wall_s
    assert [event for event in long.events("StepDone") if died - 0.2 < event.wall_s < back], (
        "sites train on meanwhile"
    )


@pytest.mark.parametrize("what", ["rank", "client"])
def test_a_process_of_a_site_is_killed(long, what):
    words = {
        "rank": ("isthmus.train", "--site a ", "--rank 0 "),
        "client": ("isthmus.outer.client", "--site a "),
    }
    process = long.train()
    long.wait_for("VersionPublished", 2)
    long.wait(lambda: steps(long, "a") >= 3, "steps at a")
    long.kill(*words[what], "--site a ")
    if what == "rank":
        long.wait_for("Healed", site="a")
    else:
        long.wait_for("Recovered", kind="client_died")
    done = steps(long, "a")
    long.end(process)
    long.check_whole()
    assert steps(long, "a") > done


def test_the_launcher_is_killed_and_the_run_resumed(long):
    process = long.train()
    long.wait_for("VersionPublished", 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    long.check_tidy(temporary=False)
    assert not (long.path / "final").exists()
    long.end(long.train())
    long.check_whole(temporary=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_leaves_cleanly_and_resumes(long, number):
    process = long.train()
    long.wait_for("SiteJoined", 2)  # one alone publishes too, where the other is slow to start
    long.wait_for("VersionPublished", 2)
    process.send_signal(number)
    told = long.end(process, code=None)
    assert process.returncode == 130, told
    assert [event.reason for event in long.events("SiteLeft")] == ["left"] * 2
    assert len(long.events("RunFinished")) == 1
    assert not long.events("Fault")
    long.check_tidy()
    merged = len(long.merged())
    assert 0 < merged < long.num_samples

    if number == signal.SIGINT:  # another number of sites, and of ranks
        long.fleet = {"sites": {"a": {"nodes": [{"chips": {"cpu": 2}}]}}}
    else:
        long.fleet = {"sites": {"a": {}, "b": {}, "c": {}}}
    long.end(long.train())
    long.check_whole()
    assert [event.version for event in long.events("ServerStarted")][1] > 0


def test_a_second_ctrl_c_ends_it_at_once_and_it_resumes(long):
    process = long.train()
    long.wait_for("VersionPublished", 2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    long.end(process, code=130)
    long.check_tidy()
    long.end(long.train())
    long.check_whole()


def test_an_error_of_the_user_at_a_rank_ends_it_with_the_words(run):
    run.fleet = {"sites": {"a": {"nodes": [{"chips": {"ascend910b": 1}}]}}}
    process = run.train()
    told = run.end(process, code=2)
    assert "torch_npu" in told
    assert "hint" in told
    assert "Traceback" not in told
    run.check_tidy()


def test_the_first_moments_may_be_interrupted(run):
    process = run.train()
    run.wait(lambda: run.pids("isthmus.train"), "ranks")
    process.send_signal(signal.SIGINT)
    told = run.end(process, code=None)
    assert process.returncode in (0, 130), told
    assert "Traceback" not in told
    run.check_tidy()
    assert os.path.isdir(run.path)
