"""Versions on their way to a site: what is announced of them, and the fragments that are here."""

import numpy as np

from isthmus.outer.messages import VersionReady, version_key


class Arrivals:
    """Fragments may come before their announcement, in any order, and of versions that are never taken."""

    def __init__(self) -> None:
        self.num_fragments = 0
        """Of every version; known once the ranks are there."""
        self._fragments: dict[str, np.ndarray] = {}
        self._announced: dict[tuple[int, int], tuple[VersionReady, float]] = {}

    def announce(self, ready: VersionReady, now_s: float) -> None:
        self._announced[ready.version, ready.base] = (ready, now_s)

    def add(self, key: str, payload: np.ndarray) -> None:
        self._fragments[key] = payload

    def complete(self) -> list[tuple[VersionReady, float]]:
        """Versions whose last fragment has come since the last call, and when each was announced."""
        whole = [
            place
            for place, (ready, _) in self._announced.items()
            if all(key in self._fragments for key in self._keys(ready))
        ]
        return [self._announced.pop(place) for place in whole]

    def take(self, ready: VersionReady) -> list[np.ndarray]:
        """The fragments of a complete version; those of older ones are dropped."""
        payloads = [self._fragments[key] for key in self._keys(ready)]
        self._fragments = {
            key: payload for key, payload in self._fragments.items() if int(key.split("/")[2]) > ready.version
        }
        return payloads

    def _keys(self, ready: VersionReady) -> list[str]:
        return [version_key(ready, index) for index in range(self.num_fragments)]
