"""faults.controller.stall_s: a site's agent, its keeper and store in one, is killed (kill -9) and started
again as `isthmus train` does; training goes on meanwhile.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from isthmus.agent.launch import RESTART_PAUSE_S
from isthmus.journal.events import Healed, StepDone
from isthmus_bench.document import Result, package_version
from isthmus_bench.faults import torchrun_peer
from isthmus_bench.faults.crew import NUM_RANKS, Crew, run_spec
from isthmus_bench.faults.drill import is_covered, until

SEED = 9
ENDLESS = 1_000_000
FIRST_STEPS = 10
WATCH_S = 4.0
"""After a kill, in which the longest gap between two steps is looked for."""
PEER_WATCH_S = 15.0
PEER_ENV = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""The last: without it a job of torchrun with gloo never comes back from a restart (pytorch#167288)."""
TIMEOUT_S = 120.0


def run(quick: bool) -> list[Result]:
    draws = random.Random(SEED)
    with Crew(run_spec(ENDLESS, checkpoint_every_s=3.0)) as crew:
        crew.wait_step(FIRST_STEPS)
        crew.wait_standby()
        stalls = [_without_agent(crew, draws) for _ in range(2 if quick else 5)]
        healed = _rank_too(crew, draws)
    if healed is None:
        after = f"a rank killed before the new agent was there was NOT replaced within {TIMEOUT_S:.0f} s"
    else:
        after = f"a rank killed before the new agent was there: training again after {healed:.1f} s"
    note = (
        f"longest gap between two steps beyond the usual, the worst of {len(stalls)} kills of the agent at "
        f"random instants, back {RESTART_PAUSE_S} s later; {after}; "
        f"{torchrun_without_agent(5.0 if quick else PEER_WATCH_S)}"
    )
    return [Result("faults.controller.stall_s", max(stalls), "s", note=note)]


def _without_agent(crew: Crew, draws: random.Random) -> float:
    until(crew, lambda: is_covered(crew), TIMEOUT_S)
    time.sleep(2.0 * draws.random())
    at_s = time.time()
    _restart_agent(crew)
    end_s = time.monotonic() + WATCH_S
    until(crew, lambda: time.monotonic() > end_s, WATCH_S + 1.0)
    return stall_s([event.wall_s for event in crew.of(StepDone)], at_s, at_s + WATCH_S)


def _restart_agent(crew: Crew) -> None:
    crew.agent.signal(signal.SIGKILL)
    assert crew.agent.process
    crew.agent.process.wait()
    time.sleep(RESTART_PAUSE_S)
    crew.start()


def stall_s(times: Sequence[float], start_s: float, end_s: float) -> float:
    """The longest gap between two steps that touches the span, less the usual one. A run that did not go on
    stands still to the end of the span.
    """
    usual_s = median(b - a for a, b in itertools.pairwise(times))
    gaps = [
        b - a for a, b in itertools.pairwise([*times, max(end_s, times[-1])]) if b > start_s and a < end_s
    ]
    return max(0.0, max(gaps, default=end_s - start_s) - usual_s)


def _rank_too(crew: Crew, draws: random.Random) -> float | None:
    """A rank dies while the agent is away: seconds until the group trains again."""
    until(crew, lambda: is_covered(crew), TIMEOUT_S)
    victim = crew.pid(draws.randrange(NUM_RANKS))
    at_s = time.time()
    crew.agent.signal(signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    assert crew.agent.process
    crew.agent.process.wait()
    time.sleep(RESTART_PAUSE_S)
    crew.start()
    if not until(crew, lambda: bool(crew.of(Healed, at_s)), TIMEOUT_S):
        return None
    return crew.of(Healed, at_s)[-1].resumed_s - at_s


def torchrun_without_agent(watch_s: float) -> str:
    """For a note: what is left of a job of torchrun once its agent is killed, and then a rank."""
    name = f"torchrun {package_version('torch')}"
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        places = [Path(folder) / str(rank) for rank in range(2)]
        command = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
        command += [torchrun_peer.__file__, folder]
        agent = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **PEER_ENV},
        )
        try:
            if not _all_beyond(places, 5, TIMEOUT_S):
                return f"{name} did not start"
            agent.kill()
            agent.wait()
            alone = _all_beyond(places, _furthest(places) + 20, watch_s)
            return f"{name}, its agent killed: {_after(places, watch_s) if alone else 'the job stops'}"
        finally:
            agent.kill()
            for place in places:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(place.read_text().split()[0]), signal.SIGKILL)


def _after(places: Sequence[Path], watch_s: float) -> str:
    """Its ranks have trained on; now one of them dies."""
    os.kill(int(places[1].read_text().split()[0]), signal.SIGKILL)
    lives = _all_beyond(places, _furthest(places) + 20, watch_s)
    after = "is replaced" if lives else "is never replaced, the job is over"
    return f"its ranks go on with nobody to look after them, one that dies {after}"


def _all_beyond(places: Sequence[Path], step: int, timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if min(map(_step, places)) >= step:
            return True
        time.sleep(0.1)
    return False


def _furthest(places: Sequence[Path]) -> int:
    return max(map(_step, places))


def _step(place: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(place.read_text().split()[1])
    return -1
