"""Random numbers that depend on (seed, name) alone. No torch here."""

import hashlib

import numpy as np
import numpy.typing as npt

ROUTER_STD = 0.02
"""Of a router's first weights: small, so that the experts start out evenly used."""


def normal(seed: int, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal, from a counter-based stream of its own for each name: no draw depends on another."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    draws = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return draws.standard_normal(shape, dtype=np.float32)
