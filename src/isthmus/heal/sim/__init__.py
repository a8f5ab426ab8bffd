"""Deterministic simulator of healing: the real keeper, and ranks as coroutines, under virtual clock, network
and disk, through seeded faults at every point where anything waits.
"""

from isthmus.heal.sim.world import Report, SimConfig, simulate
from isthmus.sim.invariant import InvariantError

__all__ = ["InvariantError", "Report", "SimConfig", "simulate"]
