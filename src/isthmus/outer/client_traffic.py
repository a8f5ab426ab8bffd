"""What is on its way between a site and its server: a contribution up, versions down. No torch."""

from dataclasses import dataclass, field

from isthmus.journal import events as journal


@dataclass
class Upload:
    """One contribution's fragments."""

    seq: int = 0
    started_s: float = 0.0
    waiting: set[str] = field(default_factory=set[str])
    """Keys that have not been sent in full."""

    def sent(self, key: str, now_s: float) -> float | None:
        """Seconds since the start, once: when the last of them has gone."""
        if key not in self.waiting:
            return None
        self.waiting.discard(key)
        return None if self.waiting else now_s - self.started_s


@dataclass
class Uptake:
    """Versions from their installation until the ranks take one up."""

    offered_hash: str = ""
    """Of the version the ranks were offered last; a newer one may be installed by now."""
    fresh_bytes: int = 0
    refreshed: bool = False

    def installed(self, size: int, *, full: bool) -> None:
        self.fresh_bytes += size
        self.refreshed = self.refreshed or full

    def taken(self, site: str, version: int, delay_steps: int) -> journal.VersionApplied:
        event = journal.VersionApplied(
            site=site,
            version=version,
            hash=self.offered_hash,
            delay_steps=delay_steps,
            bytes_down=self.fresh_bytes,
            refresh=self.refreshed,
        )
        self.fresh_bytes, self.refreshed = 0, False
        return event
