"""Where contributions arrive: buffers for their fragments, matched with the Commit that names them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import xxhash

from isthmus.outer.messages import Contribution, contribution_key

Number = tuple[int, int]
"""(incarnation, seq): orders the contributions of one site."""


@dataclass
class _Parcel:
    """What is here of one contribution."""

    number: Number
    fragments: dict[int, np.ndarray] = field(default_factory=dict)
    commit: Contribution | None = None


class Intake:
    """Bounded: the newest contribution of each site, no more. Any thread may call.

    A site pushes again only when it knows the fate of its last push, and uploads in a new incarnation only
    when the old one is forgotten. So whatever is older than the newest is a leftover.

    Args:
        fragment_sizes: bytes of each encoded fragment.
        on_complete: called once for each contribution whose fragments are all here, in the thread that
            brought the last of them.
    """

    def __init__(self, fragment_sizes: list[int], on_complete: Callable[[Contribution], None]):
        self._sizes = fragment_sizes
        self._on_complete = on_complete
        self._lock = threading.Lock()
        self._parcels: dict[str, _Parcel] = {}

    def allocate(self, site: str, key: str, size: int) -> np.ndarray | None:
        """A buffer for the fragment with this key, or None: not its own, not its size, or left over."""
        parsed = _parse(site, key)
        if parsed is None:
            return None
        number, index = parsed
        if index >= len(self._sizes) or size != self._sizes[index]:
            return None
        with self._lock:
            return np.empty(size, np.uint8) if self._parcel(site, number) else None

    def blob(self, site: str, key: str, payload: np.ndarray) -> None:
        parsed = _parse(site, key)
        if parsed is None:
            return
        number, index = parsed
        with self._lock:
            parcel = self._parcel(site, number)
            if parcel:
                parcel.fragments[index] = payload
        self._match(site)

    def commit(self, site: str, contribution: Contribution) -> bool:
        """False if it is not one of this site's, cut as the server's model is."""
        number = contribution.incarnation, contribution.seq
        keys = [contribution_key(site, *number, index) for index in range(len(self._sizes))]
        if contribution.site != site or [fragment.key for fragment in contribution.fragments] != keys:
            return False
        with self._lock:
            parcel = self._parcel(site, number)
            if parcel:
                parcel.commit = contribution
        self._match(site)
        return True

    def _parcel(self, site: str, number: Number) -> _Parcel | None:
        """The site's parcel of this number; a newer one takes the place of what was there."""
        parcel = self._parcels.get(site)
        if parcel is None or parcel.number < number:
            parcel = self._parcels[site] = _Parcel(number)
        return parcel if parcel.number == number else None

    def _match(self, site: str) -> None:
        with self._lock:
            parcel = self._parcels.get(site)
            if parcel is None or parcel.commit is None or len(parcel.fragments) < len(self._sizes):
                return
            done, parcel.commit = parcel.commit, None
        self._on_complete(done)

    def take(self, contribution: Contribution) -> list[np.ndarray]:
        """Its payloads in fragment order. Raises KeyError if they are not all here."""
        with self._lock:
            parcel = self._parcels[contribution.site]
            if parcel.number != (contribution.incarnation, contribution.seq):
                raise KeyError(contribution.id)
            return [parcel.fragments[index] for index in range(len(self._sizes))]

    def drop(self, site: str, number: Number) -> None:
        """This contribution of the site was decided: what is here of it, or of an older one, may go."""
        with self._lock:
            if site in self._parcels and self._parcels[site].number <= number:
                del self._parcels[site]


def _parse(site: str, key: str) -> tuple[Number, int] | None:
    """(number, fragment) if the key is one of this site's contributions."""
    start = f"up/{site}/"
    parts = key.removeprefix(start).split("/")
    if not key.startswith(start) or len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return None
    incarnation, seq, index = map(int, parts)
    return (incarnation, seq), index


def intact(contribution: Contribution, payloads: list[np.ndarray]) -> bool:
    """Whether every fragment has the size and checksum that the Commit names."""
    return all(
        payload.size == fragment.size and xxhash.xxh3_64_hexdigest(payload.data) == fragment.hash
        for fragment, payload in zip(contribution.fragments, payloads, strict=True)
    )
