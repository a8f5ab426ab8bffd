"""faults.kill.*: one of four ranks is killed with -9 while the site trains, again and again, also its lead.

Times begin just before the kill. Detected: the journal's Fault. Recovered: the first new step that the
journal tells, after all ranks stand together again. Against others the same is done by turns, see `rivals`.
"""

import random
import time
from statistics import median

import msgspec

from isthmus.journal.events import Fault, Healed, StepDone
from isthmus_bench.document import Result
from isthmus_bench.faults import rivals
from isthmus_bench.faults.crew import NUM_RANKS, SITE, Crew, percentile, run_spec, undisturbed

STEPS_EACH = 30
"""Steps of the run for each kill: more than pass until a process is warm again."""
BETWEEN = 4
"""Steps at least between two kills."""
HEAL_S = 60.0
END_S = 600.0
LOOK_S = 0.002
SEED = 7
TORCHRUN = "store not shared"


class Kill(msgspec.Struct, frozen=True):
    """Seconds after it."""

    rank: int
    detect_s: float
    recover_s: float
    lost: int
    regrouped_s: float
    """The agent told the ranks to meet."""
    joined_s: float
    """All stood at the same step."""


class Stage(msgspec.Struct, frozen=True):
    """Seconds after a kill, by the ranks' own pages: the last of them to get so far."""

    kill: Kill
    heard_s: float
    """It took up the order to meet."""
    met_s: float
    """It was in the new group."""


def run(quick: bool) -> list[Result]:
    kills, is_identical, step_s = killed(5 if quick else 20)
    mine, theirs, stages = race(1 if quick else 3, step_s, never_s=12.0 if quick else 60.0)
    return [*own_rows(kills, is_identical, theirs), versus(mine, theirs), *profile(stages)]


def killed(count: int) -> tuple[list[Kill], bool, float]:
    """(kills, whether the run computed what an undisturbed one does, median seconds of a step)."""
    spec, draws = run_spec(STEPS_EACH * count), random.Random(SEED)
    expected = undisturbed(spec, timeout_s=END_S)
    with Crew(spec) as crew:
        crew.wait_step(BETWEEN)
        kills: list[Kill] = []
        for index in range(count):
            crew.wait_standby()
            crew.wait_step(crew.step + BETWEEN)
            time.sleep(draws.random() * 0.1)
            kills.append(kill(crew, index % NUM_RANKS))
        crew.wait_end(END_S)
        step_s = median(event.step_s for event in crew.of(StepDone))
        return kills, expected.matches(crew), step_s


def kill(crew: Crew, rank: int) -> Kill:
    """Returns once it has healed and trained on."""
    return healed(crew, rank, crew.kill(rank))


def healed(crew: Crew, rank: int, at_s: float) -> Kill:
    """Waits for what followed a kill."""
    name = f"rank-{SITE}-{rank}"

    def told() -> tuple[Fault, Healed, StepDone] | None:
        """What a new lead tells a second time, for the dead one, is no new step."""
        faults = [event for event in crew.of(Fault, at_s) if event.subject == name]
        over = crew.of(Healed, at_s)
        steps = [e for e in crew.of(StepDone, at_s) if over and e.step > over[0].step]
        return (faults[0], over[0], steps[0]) if faults and steps else None

    crew.wait(lambda: told() is not None, HEAL_S, "step after a kill")
    found = told()
    assert found
    fault, over, step = found
    return Kill(
        rank=rank,
        detect_s=fault.wall_s - at_s,
        recover_s=step.wall_s - at_s,
        lost=over.lost_steps,
        regrouped_s=over.regrouped_s - at_s,
        joined_s=over.resumed_s - at_s,
    )


def staged(crew: Crew, rank: int) -> Stage:
    """A kill under close watch, which itself takes some time from the ranks."""
    before = max(page.generation for page in crew.pages())
    at_s = crew.kill(rank)
    heard: dict[int, float] = {}
    met: dict[int, float] = {}
    while len(met) < crew.num_ranks and time.time() < at_s + HEAL_S:
        for page in crew.pages():
            if page.generation > before:
                heard.setdefault(page.pid, time.time() - at_s)
                if page.issued:
                    met.setdefault(page.pid, time.time() - at_s)
        time.sleep(LOOK_S)
    return Stage(healed(crew, rank, at_s), max(heard.values()), max(met.values()))


Theirs = dict[str, list[rivals.Recovery | None]]
"""By name; [] for one that is absent, None where it did not train again."""


def race(rounds: int, step_s: float, never_s: float) -> tuple[list[Kill], Theirs, list[Stage]]:
    """Ours and each rival by turns."""
    mine: list[Kill] = []
    stages: list[Stage] = []
    runners = rivals.find(never_s)
    theirs: Theirs = {rival.name: [] for rival in runners}
    for _ in range(rounds):
        with Crew(run_spec(10**6)) as crew:
            crew.wait_step(rivals.KILL_STEP)
            crew.wait_standby()
            mine.append(kill(crew, rivals.VICTIM))
            crew.wait_standby()
            stages.append(staged(crew, rivals.VICTIM))
        for rival in runners:
            if rival.python:
                theirs[rival.name].append(rival.race(step_s))
    return mine, theirs, stages


def seconds(theirs: Theirs) -> dict[str, float]:
    """Median until a step, of those that came so far every time."""
    return {name: median(r.seconds for r in done) for name, done in _done(theirs).items()}


def _done(theirs: Theirs) -> dict[str, list[rivals.Recovery]]:
    done = {name: [one for one in all_ if one] for name, all_ in theirs.items()}
    return {name: found for name, found in done.items() if found and len(found) == len(theirs[name])}


def failures(theirs: Theirs) -> str:
    """Of the rivals without a figure, why."""
    absent = [name.split(" (")[0].strip() for name, found in theirs.items() if not found]
    told = [f"{name}: {found.count(None)} of {len(found)} did not train again within the limit"
            for name, found in theirs.items() if None in found]  # fmt: skip
    return "; ".join([*told, *([f"absent: {', '.join(absent)}"] if absent else [])])


def own_rows(kills: list[Kill], is_identical: bool, theirs: Theirs) -> list[Result]:
    detect_ms = [1000 * each.detect_s for each in kills]
    lead = [each.recover_s for each in kills if each.rank == 0]
    done = _done(theirs)
    peers = seconds(theirs)
    replaced = {
        f"{name}, the dead one is replaced": median(r.replaced_s for r in found if r.replaced_s is not None)
        for name, found in done.items()
        if all(r.replaced_s is not None for r in found)
    }
    lost = {name: max(r.lost for r in found) for name, found in done.items()}
    what = f"{len(kills)} kills -9, ranks 0 to {NUM_RANKS - 1} in turn, a process warm in reserve"
    return [
        Result("faults.kill.detect_ms", percentile(detect_ms, 0.95), "ms",
               note=f"9.5th decile of {what}; median {median(detect_ms):.1f}, to the Fault in the journal"),
        Result("faults.kill.recover_s", median(each.recover_s for each in kills), "s", peers | replaced,
               f"median until the first new step; longest {max(k.recover_s for k in kills):.2f}; "
               + failures(theirs)),
        Result("faults.kill.recover_s.rank0", median(lead), "s", note=f"{len(lead)} kills of the lead"),
        Result("faults.kill.steps_lost", sum(each.lost for each in kills), "count", dict(lost),
               "steps done twice, in all kills; peers: at worst in one, a checkpoint every 10 steps"),
        Result("faults.kill.identical", float(is_identical), "share",
               note="losses and final weights are those of an undisturbed run, bit for bit"),
    ]  # fmt: skip


def versus(mine: list[Kill], theirs: Theirs) -> Result:
    """A torchrun that never trained again has its limit for a figure."""
    ours_s, found = median(each.recover_s for each in mine), seconds(theirs)
    ratios = {name: theirs_s / ours_s for name, theirs_s in found.items()}
    torchrun = next(name for name in theirs if name.startswith("torchrun") and TORCHRUN in name)
    value = ratios.pop(torchrun, rivals.LIMIT_S / ours_s)
    note = (
        f"{torchrun}, kill to first step, over ours by turns, {len(mine)} rounds, median {ours_s:.2f} s; "
        + failures(theirs)
    )
    return Result("faults.kill.vs_torchrun", value, "ratio", ratios, note)


PARTS = {
    "detect": "kill to the Fault in the journal",
    "told": "until the agent has broken the group, filled the place and told the ranks to meet",
    "heard": "until the last rank takes that up",
    "met": "until the last rank is in the new group",
    "stand": "until all stand at one step: state copied, the agent told",
    "step": "until the first new step is told",
}


def profile(stages: list[Stage]) -> list[Result]:
    """Where the time goes, part after part; medians."""
    marks = [marks_of(stage) for stage in stages]
    return [
        Result(
            f"faults.kill.profile.{name}_ms", 1000 * median(m[n + 1] - m[n] for m in marks), "ms", note=what
        )
        for n, (name, what) in enumerate(PARTS.items())
    ]


def marks_of(stage: Stage) -> list[float]:
    kill = stage.kill
    return [
        0.0, kill.detect_s, kill.regrouped_s, stage.heard_s, stage.met_s, kill.joined_s, kill.recover_s,
    ]  # fmt: skip
