"""Metis in a process of its own: its search over the cluster, and its estimate of a plan of ours.

`python -m isthmus_bench.planner.metis_process CHECKOUT FOLDER` with a plan as JSON on stdin, FOLDER holding
hostfile, clusterfile.json and profile/; prints `Judged` as JSON. Metis is imported from its checkout; nothing
of it is part of this package.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

GPT = {
    "model_name": "GPT", "num_layers": 10, "gbs": 128, "hidden_size": 4096, "sequence_length": 1024,
    "vocab_size": 51_200, "attention_head_size": 32,
    "max_profiled_tp_degree": 4, "max_profiled_batch_size": 4,
    "min_group_scale_variance": 1, "max_permute_len": 6,
}  # fmt: skip
"""The example of Metis's README, with its arguments."""


class Stages(msgspec.Struct, frozen=True):
    """A pipeline as Metis has it: chips in the order of `types`, cut into groups, one for each stage."""

    types: list[str]
    """Order of the kinds of chips; each kind's chips stand together."""
    groups: list[int]
    """Chips of each stage."""
    strategies: list[tuple[int, int]]
    """(data, tensor) degree of each."""
    batches: int
    """Micro-batches."""
    ends: list[int]
    """0, then the block after the last one of each stage; embedding and head are blocks."""


class Judged(msgspec.Struct, frozen=True):
    seconds: float
    """Of its search, without imports and reading of files."""
    cost: float
    """Of its best plan that has all layers, by its estimate."""
    plan: Stages
    plans: int
    faulty: int
    """Plans that it counts with fewer stages than they have: their layers are lost."""
    ours: float
    """Cost of the plan given, by the same estimate."""


def main(arguments: list[str]) -> int:
    checkout, folder = arguments
    ours = msgspec.json.decode(sys.stdin.buffer.read(), type=Stages)
    sys.path.insert(0, checkout)
    paths = {
        "hostfile_path": f"{folder}/hostfile",
        "clusterfile_path": f"{folder}/clusterfile.json",
        "profile_data_path": f"{folder}/profile",
    }
    sys.argv = ["metis", *(f"--{name}={value}" for name, value in {**GPT, **paths}.items())]
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        judged = judge(ours)
    print(msgspec.json.encode(judged).decode())
    return 0


def judge(ours: Stages) -> Judged:
    metis = _Metis()
    start_s = time.perf_counter()
    found = metis.search()
    seconds = time.perf_counter() - start_s
    scored = [(metis.cost(each), each) for each in found]
    cost, plan = min(scored, key=lambda item: item[0])
    return Judged(seconds, cost, plan, len(found), metis.faulty, metis.cost(ours))


class _Metis:
    """Its objects for the example."""

    def __init__(self) -> None:
        from arguments import parse_args  # type: ignore[import-not-found]
        from data_loader import ProfileDataLoader  # type: ignore[import-not-found]
        from gpu_cluster import GPUCluster  # type: ignore[import-not-found]
        from model.activation_parameter import GPTActivationAndParam  # type: ignore[import-not-found]
        from model.cost_estimator import HeteroCostEstimator  # type: ignore[import-not-found]
        from model.load_balancer import LayerLoadBalancer  # type: ignore[import-not-found]
        from utils import ModelConfig  # type: ignore[import-not-found]

        self.arguments: Any = parse_args()
        self.cluster: Any = GPUCluster(self.arguments.hostfile_path, self.arguments.clusterfile_path)
        self.profiles: Any = ProfileDataLoader(self.arguments.profile_data_path).load_profile_data_all()[0]
        names = (
            "model_name",
            "num_layers",
            "sequence_length",
            "vocab_size",
            "hidden_size",
            "attention_head_size",
        )
        self.config: Any = ModelConfig(**{name: getattr(self.arguments, name) for name in names})
        volume = GPTActivationAndParam(self.config, self.profiles["model"]["parameters"])
        self.estimator: Any = HeteroCostEstimator(self.profiles, self.config, volume, self.cluster)
        self.balancer: Any = LayerLoadBalancer(self.cluster, self.profiles, self.config, self.arguments.gbs)
        self.faulty = 0

    def search(self) -> list[Stages]:
        from cost_het_cluster import cost_het_cluster  # type: ignore[import-not-found]

        found = cost_het_cluster(
            self.arguments, self.cluster, self.profiles, self.config, self.estimator, self.balancer
        )
        plans = [
            Stages([kind.name for kind in kinds], list(groups), list(strategies), batches, list(ends))
            for kinds, groups, strategies, batches, ends, _, _ in found
        ]
        self.faulty = sum(
            abs(self.cost(plan) - cost) > 1e-6 for plan, (*_, cost) in zip(plans, found, strict=True)
        )
        return plans

    def cost(self, plan: Stages) -> float:
        """By its estimator; infinite where it has no profile for a stage."""
        from model.device_group import StagePerformance  # type: ignore[import-not-found]
        from search_space.plan import InterStagePlan  # type: ignore[import-not-found]
        from utils import DeviceType  # type: ignore[import-not-found]

        kinds = tuple(DeviceType[name] for name in plan.types)
        stages = InterStagePlan(0, kinds, 0, plan.groups, len(plan.groups), plan.batches, self.arguments.gbs)
        places = StagePerformance(self.config, self.profiles, self.cluster, stages).get_device_placement()
        try:
            return self.estimator.get_cost(stages, plan.strategies, plan.ends, places)
        except KeyError:
            return float("inf")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
