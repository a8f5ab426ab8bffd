"""What each figure has to reach. A figure without a target is printed for comparison only."""

import operator
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple


class Target(NamedTuple):
    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return _COMPARE[self.sign](value, self.bound)

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "<": operator.lt, "==": operator.eq,
}  # fmt: skip

TARGETS = {
    "outer.equivalent_compute.?sites.int?": Target(">=", 0.97),
    "outer.loss_gap": Target("<=", 0.015),
    "outer.bytes.int8": Target(">=", 3.9),
    "outer.bytes.int4": Target(">=", 7.5),
    "outer.slow_site_wait": Target("<=", 0.01),
    "outer.server_restart.lost_tokens": Target("==", 0),
    "outer.server_restart.site_exits": Target("==", 0),
    "outer.server_restart.rate_during": Target(">=", 0.98),
    "outer.link_cut.resent_chunks": Target("<=", 1),
    "outer.oracle.sync": Target("<=", 1e-6),
    "outer.oracle.torchft": Target("<=", 1e-5),
    "moe.roofline.8": Target(">=", 0.85),
    "moe.roofline.16": Target(">=", 0.80),
    "moe.roofline.32": Target(">=", 0.68),
    "moe.vs.hf_grouped": Target(">=", 2.0),
    "moe.vs.hf_eager": Target(">=", 4.0),
    "moe.vs.hf_grouped_compiled": Target(">=", 1.5),
    "moe.vs.torchtitan": Target(">=", 2.5),
    "moe.vs_fixed.hf_grouped": Target(">=", 1.25),
    "moe.vs_fixed.hf_eager": Target(">=", 3.0),
    "moe.vs_fixed.torchtitan": Target(">=", 1.4),
    "moe.router_share": Target("<=", 0.05),
    "moe.train_step.fp32": Target(">=", 1.15),
    "moe.train_step.bf16": Target(">=", 1.5),
    "planner.time_error.calibrated": Target("<=", 0.06),
    "planner.time_error.calibrated.p90": Target("<=", 0.15),
    "planner.time_error.unseen": Target("<=", 0.12),
    "planner.time_error.unseen.worst_source": Target("<=", 0.20),
    "planner.ranking": Target(">=", 0.8),
    "planner.memory_error": Target("<=", 0.05),
    "planner.memory_error.feasible_but_oom": Target("==", 0),
    "planner.memory_error.paper": Target("<=", 0.02),
    "sim.schedules": Target(">=", 1000),
    "sim.mutants": Target(">=", 10),
    "loader.identical": Target(">=", 1),
    "loader.resume_ms": Target("<=", 50),
    "loader.tokens_per_s": Target(">=", 2e7),
    "balance.adaptive.loss": Target("<=", 1.005),
    "balance.adaptive.drop_rate": Target("<=", 0.05),
    "transport.speed": Target(">=", 0.8),
    "transport.cpu": Target("<=", 1.5),
    "upcycle.gain": Target(">=", 0),
    "upcycle.logits": Target("<=", 1e-4),
    "upcycle.similarity_fall": Target(">=", 0.01),
    "planner.optimality": Target("==", 0),
    "planner.scale.seconds": Target("<=", 10),
    "planner.scale.gap": Target("<=", 0.02),
    "planner.scale.512": Target("<=", 1),
    "planner.metis.cost": Target("<=", 1),
    "planner.metis.speed": Target(">=", 50),
    "planner.skywork.rank": Target("<=", 3),
    "planner.skywork.throughput": Target("<=", 0.10),
    "planner.skywork.split": Target("==", 1),
    "planner.skywork.split_gain": Target(">=", 0.05),
    "planner.scale.replan": Target("<=", 1.0),
    "planner.replan.wrong_prices": Target("==", 0),
    "faults.diagnosis.class": Target(">=", 0.92),
    "faults.diagnosis.rank": Target(">=", 0.95),
    "faults.diagnosis.unsafe": Target("==", 0),
    "faults.diagnosis.flight": Target("==", 1),
    "faults.diagnosis.gb_s": Target("<=", 20),
    "planner.real*": Target("<=", 0.10),
    "planner.memory_real": Target("<=", 0.05),
    "faults.kill.detect_ms": Target("<=", 50),
    "faults.kill.recover_s": Target("<=", 0.5),
    "faults.kill.steps_lost": Target("==", 0),
    "faults.kill.identical": Target("==", 1),
    "faults.kill.vs_torchrun": Target(">=", 25),
    "faults.hang.detect_s": Target("<=", 3),
    "faults.hang.named": Target(">=", 0.98),
    "faults.hang.false_alarms": Target("==", 0),
    "faults.nan.named": Target(">=", 0.99),
    "faults.sdc.named": Target(">=", 0.99),
    "faults.sdc.steps": Target("<=", 64),
    "faults.slow.steps": Target("<=", 40),
    "faults.slow.false_alarms": Target("<", 1),
    "faults.overhead": Target("<=", 0.005),
    "faults.peer_copy.1": Target("<=", 0.02),
    "faults.peer_copy.10": Target("<=", 0.005),
    "faults.storm.identical": Target("==", 1),
    "faults.storm.ettr": Target(">=", 0.95),
    "faults.controller.stall_s": Target("<=", 2),
    "faults.corruption.resumed": Target(">=", 1),
    "faults.site_cut.steps_lost": Target("==", 0),
    "faults.site_cut.rejoin_s": Target("<=", 5),
}
"""By id; the pattern of the shell, `?` for one character."""


def target_of(result_id: str) -> Target | None:
    return next((target for pattern, target in TARGETS.items() if fnmatchcase(result_id, pattern)), None)
