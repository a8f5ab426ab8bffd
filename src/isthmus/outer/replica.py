"""A site's copy of the published parameters, and the contribution in flight. NumPy only.

All vectors are flat fp32 in the layout's order. `Replica` does the arithmetic that the member machine asks
for; the shared vectors it works on are those of `bridge`.
"""

from dataclasses import dataclass

import numpy as np
import xxhash

from isthmus.outer.bridge import Vectors
from isthmus.outer.layout import Layout
from isthmus.outer.merge import hash_fragments
from isthmus.outer.messages import Fragment, contribution_key
from isthmus.wire import codecs


@dataclass(frozen=True)
class Flight:
    """A contribution as it was encoded, until its fate is known."""

    seq: int
    payloads: list[np.ndarray]


class Replica:
    """Memory: published parameters, error feedback and its old value, each 4 bytes a parameter, and one
    payload.

    Args:
        codec, down_codec, block: as the server's terms have them.
    """

    def __init__(self, layout: Layout, vectors: Vectors, codec: str, down_codec: str, block: int):
        self._layout, self._vectors = layout, vectors
        self._codec, self._down_codec, self._block = codec, down_codec, block
        self._published = np.zeros(layout.size, np.float32)
        self._residual = np.zeros(layout.size, np.float32)
        self._residual_before = np.zeros(layout.size, np.float32)
        self._flight: Flight | None = None

    def encode(self, site: str, incarnation: int, seq: int) -> tuple[float, tuple[Fragment, ...]]:
        """pseudo-gradient = reference - snapshot, quantised with error feedback; reference := snapshot.

        Returns its norm (NaN if it is not finite) and what to name in the Commit.
        """
        vectors = self._vectors
        self._residual_before[:] = self._residual
        payloads, fragments, squares = [], [], 0.0
        views = [self._layout.views(flat) for flat in (vectors.reference, vectors.snapshot, self._residual)]
        for index, (reference, snapshot, residual) in enumerate(zip(*views, strict=True)):
            encoded = codecs.encode_delta(self._codec, reference, snapshot, residual, self._block)
            squares += encoded.sum_squares if encoded.finite else float("nan")
            key = contribution_key(site, incarnation, seq, index)
            digest = xxhash.xxh3_64_hexdigest(encoded.payload.data)
            fragments.append(Fragment(key, encoded.payload.size, digest))
            payloads.append(encoded.payload)
            reference[:] = snapshot  # while both are in the cache
        self._flight = Flight(seq, payloads)
        return float(np.sqrt(squares)), tuple(fragments)

    @property
    def payloads(self) -> list[np.ndarray]:
        assert self._flight
        return self._flight.payloads

    def forget(self, seq: int, discarded: bool) -> None:
        """The contribution found its end; if it was discarded, the error feedback is what it was before."""
        if self._flight is None or self._flight.seq != seq:
            return
        if discarded:
            self._residual[:] = self._residual_before
        self._flight = None

    def install(self, payloads: list[np.ndarray], full: bool) -> str:
        """Brings the published parameters to the next version, or to one sent in full; returns their hash."""
        views = self._layout.views(self._published)
        codec = "fp32" if full else self._down_codec
        for payload, view in zip(payloads, views, strict=True):
            codecs.take_up(codec, payload, self._block, view)
        return hash_fragments(views)

    def offer(self, minus: int | None) -> None:
        """base := published parameters - the contribution `minus`, if that is in flight."""
        base = self._vectors.base
        base[:] = self._published
        if minus is not None and self._flight is not None and self._flight.seq == minus:
            for payload, view in zip(self._flight.payloads, self._layout.views(base), strict=True):
                codecs.decode_add(self._codec, payload, self._block, view, -1.0)

    def taken(self) -> None:
        """The ranks stand on the offered base."""
        self._vectors.reference[:] = self._vectors.base
