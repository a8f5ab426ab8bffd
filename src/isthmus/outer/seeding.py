"""A server with no weights yet takes those of the first site that comes.

Sites build the same initial weights from the same seed, so it does not matter which one is first; the
others take the published parameters over anyway.
"""

import msgspec
import numpy as np

from isthmus.outer.layout import Layout
from isthmus.outer.messages import Hello, Identity, Seed
from isthmus.outer.protocol import state as machine

SEED_PREFIX = "seed/"
MAX_FRAGMENT_BYTES = 64 << 30


def seed_key(fragment: int) -> str:
    return f"{SEED_PREFIX}{fragment}"


class Seeding:
    """Asks one site at a time for its weights, and keeps what is said meanwhile for the machine."""

    def __init__(self) -> None:
        self.kept: list[machine.AnyEvent] = []
        self._asked = ""
        self._identity = Identity()
        self._seed: Seed | None = None
        self._blobs: dict[str, np.ndarray] = {}

    def hear(self, event: machine.AnyEvent) -> str:
        """The site to ask for its weights now, or ''."""
        match event:
            case machine.Received(site=site, message=Seed() as seed):
                if site == self._asked:
                    self._seed = seed
            case machine.Received(site=site, message=Hello(identity=identity)):
                self.kept.append(event)
                if not self._asked:
                    self._asked, self._identity = site, identity
                    return site
            case machine.PeerDown(site=site):
                self.kept.append(event)
                if site == self._asked:
                    self._asked, self._seed = "", None
                    self._blobs.clear()
            case machine.PeerUp():
                self.kept.append(event)
        return ""

    def allocate(self, site: str, key: str, size: int) -> np.ndarray | None:
        wanted = site == self._asked and key.startswith(SEED_PREFIX) and size <= MAX_FRAGMENT_BYTES
        return np.empty(size, np.uint8) if wanted else None

    def blob(self, key: str, payload: np.ndarray) -> None:
        self._blobs[key] = payload

    @property
    def complete(self) -> bool:
        if self._seed is None:
            return False
        layout = msgspec.msgpack.decode(self._seed.layout, type=Layout)
        return all(seed_key(index) in self._blobs for index in range(layout.num_fragments))

    def weights(self) -> tuple[Layout, Identity, list[np.ndarray]]:
        """Layout, what sites must have in common, and the fp32 fragments."""
        assert self._seed is not None
        layout = msgspec.msgpack.decode(self._seed.layout, type=Layout)
        fragments = [
            np.frombuffer(self._blobs[seed_key(index)], np.float32) for index in range(layout.num_fragments)
        ]
        return layout, self._identity, fragments
