"""Deterministic simulator: the real machines under virtual clock, network and disk, through seeded faults."""

from isthmus.outer.sim.checks import InvariantError
from isthmus.outer.sim.world import Report, SimConfig, simulate

__all__ = ["InvariantError", "Report", "SimConfig", "simulate"]
