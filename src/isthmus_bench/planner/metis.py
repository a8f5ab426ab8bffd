"""Metis's own example, planned from its profiles and scored by its own estimator.

16 GPUs: two nodes of four T4, two of four A100; a GPT of ten blocks, 128 sequences a step. Metis ships
profiles of the A100 alone; those of the T4 are made from them, four times as slow with equal memory. Metis
(Um et al., ATC 2024; CC BY-NC) is run from a checkout of one's own, named by METIS_HOME.
"""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from isthmus.errors import CheckFailedError, NotFoundError
from isthmus.planner.split import Split, SplitProblem, split
from isthmus_bench.document import Result
from isthmus_bench.planner.metis_process import GPT, Judged, Stages

VARIABLE = "METIS_HOME"
T4_TIMES = 4
CHIPS = {"T4": 8, "A100": 8}
NODE = 4
MEMORY_GIB = {"T4": 15, "A100": 80}
LINK = {"T4": 50, "A100": 46}
"""MiB/ms, as the README's clusterfile has it."""
MEMORY_TIMES = 5.0
"""Metis takes this many times the profile's memory (`mem_coef` of its load balancer)."""
REPEATS = 5
TIMEOUT_S = 300

Floats = NDArray[np.float64]


class Profile(NamedTuple):
    """Of one kind of chip at one tensor degree and micro-batch; milliseconds and MiB of each block."""

    compute_ms: Floats
    memory_mib: Floats
    sync_ms: float
    """Of a micro-batch, once, on the last stage."""
    generate_ms: float
    parameter_bytes: Floats
    update_ms: float


Profiles = dict[tuple[str, int, int], Profile]
"""By kind, tensor degree, sequences of a micro-batch."""


class Pipe(NamedTuple):
    """A pipeline before its layers are cut: of each stage its kind, chips, tensor degree, micro-batch."""

    kinds: tuple[str, ...]
    chips: tuple[int, ...]
    tp: tuple[int, ...]
    sizes: tuple[int, ...]
    batches: int
    bound_ms: float

    def profiles(self, known: Profiles) -> list[Profile]:
        return [known[key] for key in zip(self.kinds, self.tp, self.sizes, strict=True)]


def run(quick: bool) -> list[Result]:
    """A few seconds. NotFoundError without a checkout."""
    home = checkout()
    with tempfile.TemporaryDirectory() as folder:
        write_example(home, Path(folder))
        profiles = read_profiles(Path(folder) / "profile")
        ours, seconds = timed(profiles, 1 if quick else REPEATS)
        judged = ask(home, folder, ours)
    theirs = ", ".join(f"{groups} chips {ends} blocks" for groups, ends in _shown(judged.plan))
    mine = ", ".join(f"{groups} chips {ends} blocks" for groups, ends in _shown(ours))
    note = (
        f"ms a step by Metis's HeteroCostEstimator; ours: {' then '.join(ours.types)}, {mine}, "
        f"{ours.batches} micro-batches; its best of {judged.plans}: {' then '.join(judged.plan.types)}, "
        f"{theirs}, {judged.plan.batches}; {judged.faulty} of its plans count fewer stages than they have "
        "and are scored with all; T4 profiles are made: A100's, four times as slow"
    )
    speed = (
        f"Metis {1e3 * judged.seconds:.0f} ms, ours {1e3 * seconds:.1f} ms, both without imports and reading"
    )
    return [
        Result("planner.metis.cost", judged.ours / judged.cost, "ratio", {"Metis": 1.0}, note),
        Result("planner.metis.speed", judged.seconds / seconds, "ratio", {"Metis": 1.0}, speed),
    ]


def _shown(plan: Stages) -> list[tuple[int, int]]:
    return list(zip(plan.groups, np.diff(plan.ends).tolist(), strict=True))


def checkout() -> Path:
    home = os.environ.get(VARIABLE)
    if not home or not (Path(home) / "cost_het_cluster.py").is_file():
        raise NotFoundError(
            "no checkout of Metis to race with",
            hint=f"git clone https://github.com/SamsungLabs/Metis, and set {VARIABLE} to its folder",
        )
    return Path(home).resolve()


def write_example(home: Path, folder: Path) -> None:
    """Hostfile, clusterfile and profiles, those of the T4 made from the A100's."""
    hosts = [kind for kind, chips in CHIPS.items() for _ in range(chips // NODE)]
    (folder / "hostfile").write_text("".join(f"{kind} slots={NODE}\n" for kind in hosts))
    nodes = {
        kind: {
            "instance_type": kind,
            "inter_bandwidth": 10,
            "intra_bandwidth": LINK[kind],
            "memory": MEMORY_GIB[kind],
        }
        for kind in CHIPS
    }
    (folder / "clusterfile.json").write_text(json.dumps(nodes))
    target = folder / "profile"
    target.mkdir()
    for path in sorted((home / "profile_data_samples").glob("DeviceType.A100_*.json")):
        said = json.loads(path.read_text())
        (target / path.name).write_text(json.dumps(said))
        times = said["execution_time"]
        times["layer_compute_total_ms"] = [T4_TIMES * each for each in times["layer_compute_total_ms"]]
        times["forward_backward_time_ms"] *= T4_TIMES
        (target / path.name.replace("A100", "T4")).write_text(json.dumps(said))


def read_profiles(folder: Path) -> Profiles:
    known: Profiles = {}
    for path in sorted(folder.glob("*.json")):
        named = re.fullmatch(r"DeviceType\.(\w+?)_tp(\d+)_bs(\d+)\.json", path.name)
        if named:
            said = json.loads(path.read_text())
            known[named.group(1), int(named.group(2)), int(named.group(3))] = _profile(said)
    return known


def _profile(said: Mapping[str, Any]) -> Profile:
    times = said["execution_time"]
    compute_ms = np.array(times["layer_compute_total_ms"])
    return Profile(
        compute_ms=compute_ms,
        memory_mib=np.array(said["execution_memory"]["layer_memory_total_mb"]),
        sync_ms=times["forward_backward_time_ms"] - float(compute_ms.sum()),
        generate_ms=times["batch_generator_time_ms"],
        parameter_bytes=np.array(said["model"]["parameters"]["parameters_per_layer_bytes"]),
        update_ms=2 * times["optimizer_time_ms"],
    )


def timed(profiles: Profiles, repeats: int) -> tuple[Stages, float]:
    """Our plan, and the median seconds that it takes (compiled beforehand)."""
    ours, spent = plan(profiles), []
    for _ in range(repeats):
        start_s = time.perf_counter()
        ours = plan(profiles)
        spent.append(time.perf_counter() - start_s)
    return ours, sorted(spent)[len(spent) // 2]


def plan(profiles: Profiles) -> Stages:
    """The best of all pipelines whose stages each have chips of one kind, by branch and bound: the slowest of
    stages with W_s ms for all blocks has at least 1 / sum 1 / W_s, and each block takes its least."""
    best_ms, best = math.inf, None
    for pipe in sorted(pipes(profiles), key=lambda each: each.bound_ms):
        if pipe.bound_ms >= best_ms:
            break
        cut = split(problem_of(pipe, profiles))
        if cut is not None and (cost_ms := _cost_ms(pipe, cut, profiles)) < best_ms:
            best_ms, best = cost_ms, (pipe, cut)
    if best is None:
        raise CheckFailedError("no pipeline fits Metis's example")
    return _as_stages(*best)


def pipes(profiles: Profiles) -> Iterator[Pipe]:
    """Orders of the kinds, equal stages of each kind, tensor degrees, micro-batches that have a profile."""
    degrees = sorted({tp for _, tp, _ in profiles})
    for kinds in itertools.permutations(CHIPS):
        for stages in itertools.product(*(_powers(CHIPS[kind]) for kind in kinds)):
            for tp in itertools.product(degrees, repeat=len(kinds)):
                for batches in _powers(int(GPT["gbs"])):
                    pipe = _pipe(profiles, kinds, stages, tp, batches)
                    if pipe is not None:
                        yield pipe


def _pipe(
    profiles: Profiles, kinds: Sequence[str], stages: Sequence[int], tp: Sequence[int], batches: int
) -> Pipe | None:
    """None if the degrees do not divide the chips or the batch, or a stage has no profile."""
    groups = [CHIPS[kind] // count for kind, count in zip(kinds, stages, strict=True)]
    rounds = [batches * group // degree for group, degree in zip(groups, tp, strict=True)]
    sizes = [int(GPT["gbs"]) // each if each else 0 for each in rounds]
    keys = list(zip(kinds, tp, sizes, strict=True))
    divide = all(size * each == GPT["gbs"] for size, each in zip(sizes, rounds, strict=True))
    if not divide or sum(stages) > int(GPT["num_layers"]) - 2 or not all(key in profiles for key in keys):
        return None
    return Pipe(
        kinds=_spread(kinds, stages),
        chips=_spread(groups, stages),
        tp=_spread(tp, stages),
        sizes=_spread(sizes, stages),
        batches=batches,
        bound_ms=_bound_ms([profiles[key] for key in keys], stages, batches),
    )


Each = TypeVar("Each")


def _spread(values: Sequence[Each], counts: Sequence[int]) -> tuple[Each, ...]:
    return tuple(value for value, count in zip(values, counts, strict=True) for _ in range(count))


def _powers(most: int) -> list[int]:
    return [2**exponent for exponent in range(most.bit_length())]


def _bound_ms(chosen: Sequence[Profile], stages: Sequence[int], batches: int) -> float:
    """Of a step: (m - 1) slowest + sum, and what the last stage and the data cost in each micro-batch."""
    whole = [float(each.compute_ms.sum()) for each in chosen]
    slowest_ms = 1 / sum(count / each for count, each in zip(stages, whole, strict=True))
    least_ms = float(np.min([each.compute_ms for each in chosen], axis=0).sum())
    return (batches - 1) * slowest_ms + least_ms + batches * (chosen[-1].sync_ms + chosen[-1].generate_ms)


def problem_of(pipe: Pipe, profiles: Profiles) -> SplitProblem:
    """Memory of a stage as Metis checks it: the profile's times a constant, against all its chips'."""
    chosen = pipe.profiles(profiles)
    compute = np.array([each.compute_ms for each in chosen])
    nothing = np.zeros_like(compute)
    limits = [1024.0 * MEMORY_GIB[kind] * count for kind, count in zip(pipe.kinds, pipe.chips, strict=True)]
    return SplitProblem(
        forward_SB=compute,
        backward_SB=nothing,
        recompute_SB=nothing,
        state_SB=MEMORY_TIMES * np.array([each.memory_mib for each in chosen]),
        activation_SB=nothing,
        checkpoint_SB=nothing,
        fixed_S=np.zeros(len(chosen)),
        limit_S=np.array(limits),
        send_S=np.zeros(len(chosen)),
        micro_batches=pipe.batches,
        recompute="none",
    )


def _cost_ms(pipe: Pipe, cut: Split, profiles: Profiles) -> float:
    """With what the last stage waits in each micro-batch, gradients (ring all-reduce) and the optimizer."""
    ends = block_ends(cut)
    sync, update = [], []
    for index, profile in enumerate(pipe.profiles(profiles)):
        part, tp = slice(ends[index], ends[index + 1]), pipe.tp[index]
        dp = pipe.chips[index] // tp
        num_bytes = float(profile.parameter_bytes[part].sum()) / tp
        sync.append(2 * (dp - 1) / dp * num_bytes / (LINK[pipe.kinds[index]] * 2**20))
        update.append(profile.update_ms / tp * (part.stop - part.start) / len(profile.compute_ms))
    last = pipe.profiles(profiles)[-1]
    return cut.step_s + pipe.batches * (last.sync_ms + last.generate_ms) + max(sync) + max(update)


def block_ends(cut: Split) -> list[int]:
    """0, then the block after the last one of each stage; embedding and head are the outer blocks."""
    ends = [0, *(int(end) + 1 for end in cut.ends_S)]
    ends[-1] += 1
    return ends


def _as_stages(pipe: Pipe, cut: Split) -> Stages:
    return Stages(
        types=list(dict.fromkeys(pipe.kinds)),
        groups=list(pipe.chips),
        strategies=[(chips // tp, tp) for chips, tp in zip(pipe.chips, pipe.tp, strict=True)],
        batches=pipe.batches,
        ends=block_ends(cut),
    )


def ask(home: Path, folder: str, ours: Stages) -> Judged:
    """Its search and both scores. CheckFailedError with what it said where it fails."""
    ran = subprocess.run(
        [sys.executable, "-m", "isthmus_bench.planner.metis_process", str(home), folder],
        input=msgspec.json.encode(ours),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if ran.returncode:
        raise CheckFailedError("Metis failed", hint=ran.stderr.decode().strip().splitlines()[-1])
    return msgspec.json.decode(ran.stdout, type=Judged)
