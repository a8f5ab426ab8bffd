"""Where contributions arrive: buffers for their fragments, matched with the Commit that names them."""

import threading
from collections.abc import Callable

import numpy as np
import xxhash

from isthmus.outer.messages import Contribution

MAX_CONTRIBUTIONS = 2
"""Contributions of one site that may be under way at once."""


class Intake:
    """Bounded: a site can make the server hold at most `MAX_CONTRIBUTIONS` x its fragments. Any thread may
    call.

    Args:
        fragment_sizes: bytes of each encoded fragment; empty while the server has no weights.
        on_complete: called once for each contribution whose fragments are all here.
    """

    def __init__(self, fragment_sizes: list[int], on_complete: Callable[[Contribution], None]):
        self._sizes = fragment_sizes
        self._on_complete = on_complete
        self._lock = threading.Lock()
        self._blobs: dict[str, np.ndarray] = {}
        self._commits: dict[str, Contribution] = {}

    def allocate(self, site: str, key: str, size: int) -> np.ndarray | None:
        """A buffer for the fragment with this transport key, or None: not asked for, or too much."""
        if not key.startswith(f"up/{site}/") or size not in self._sizes:
            return None
        with self._lock:
            held = sum(name.startswith(f"up/{site}/") for name in self._blobs)
        return np.empty(size, np.uint8) if held < MAX_CONTRIBUTIONS * len(self._sizes) else None

    def blob(self, key: str, payload: np.ndarray) -> None:
        with self._lock:
            self._blobs[key] = payload
        self._match()

    def commit(self, contribution: Contribution) -> None:
        """A newer Commit of a site replaces an older one whose fragments never came."""
        with self._lock:
            self._commits[contribution.site] = contribution
        self._match()

    def _match(self) -> None:
        with self._lock:
            done = [
                contribution
                for contribution in self._commits.values()
                if all(fragment.key in self._blobs for fragment in contribution.fragments)
            ]
            for contribution in done:
                del self._commits[contribution.site]
        for contribution in done:
            self._on_complete(contribution)

    def take(self, contribution: Contribution) -> list[np.ndarray]:
        """Its payloads in fragment order; a fragment that is not here is an empty array."""
        with self._lock:
            return [self._blobs.get(f.key, np.empty(0, np.uint8)) for f in contribution.fragments]

    def drop(self, contribution: Contribution) -> None:
        """Forgets this contribution and whatever older one of its site is still here."""
        ended = (contribution.incarnation, contribution.seq)
        with self._lock:
            for key in [k for k in self._blobs if k.startswith(f"up/{contribution.site}/")]:
                incarnation, seq = key.split("/")[2:4]
                if (int(incarnation), int(seq)) <= ended:
                    del self._blobs[key]


def intact(contribution: Contribution, payloads: list[np.ndarray]) -> bool:
    """Whether every fragment has the size and checksum that the Commit names."""
    return all(
        payload.size == fragment.size and xxhash.xxh3_64_hexdigest(payload.data) == fragment.hash
        for fragment, payload in zip(contribution.fragments, payloads, strict=True)
    )
