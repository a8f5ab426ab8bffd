"""Faults that were found and have not ended: each is said once."""

from collections.abc import Hashable, Iterable

from isthmus.faults.finding import Finding


class Standing:
    """Shared by the detectors of a `Watch`. A key names a fault: its kind and where it is."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Finding] = {}
        self._ended: list[Finding] = []

    def __contains__(self, key: Hashable) -> bool:
        return key in self._found

    def found(self) -> tuple[Finding, ...]:
        """What stands now."""
        return tuple(self._found.values())

    def begin(self, key: Hashable, finding: Finding) -> list[Finding]:
        """The finding if it is news, else nothing."""
        if key in self._found:
            return []
        self._found[key] = finding
        return [finding]

    def end(self, key: Hashable) -> None:
        """It is over, if it ever was."""
        if finding := self._found.pop(key, None):
            self._ended.append(finding)

    def keep(self, kind: str, keys: Iterable[Hashable]) -> None:
        """All faults whose key is (kind, ...) end but these."""
        kept = set(keys)
        for key in [k for k in self._found if isinstance(k, tuple) and k[0] == kind and k not in kept]:
            self.end(key)

    def take_ended(self) -> list[Finding]:
        """Those that ended since the last call, as they were found."""
        ended, self._ended = self._ended, []
        return ended
