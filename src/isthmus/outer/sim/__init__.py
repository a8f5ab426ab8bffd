"""Deterministic simulator: the real machines under virtual clock, network and disk, through seeded faults."""

from isthmus.outer.sim.world import Report, SimConfig, simulate
from isthmus.sim.invariant import InvariantError

__all__ = ["InvariantError", "Report", "SimConfig", "simulate"]
