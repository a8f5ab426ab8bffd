"""torch.distributed's key-value store over the line to the site's keeper: no server to lose, no key is ever
met again in another generation, and waiting ends as soon as the generation does.
"""

from datetime import timedelta

import torch.distributed as dist

from isthmus.heal.lifeline import Lifeline


class PostedStore(dist.Store):  # pyright: ignore[reportPrivateImportUsage]
    """What a process group needs of a store in order to be made. One for each generation.

    Raises (as RuntimeError where torch calls it) AbandonedError and UnreachableError.
    """

    def __init__(self, lifeline: Lifeline, generation: int, timeout_s: float):
        super().__init__()
        self._lifeline, self._generation, self._timeout_s = lifeline, generation, timeout_s

    def set(self, key: str, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else bytes(value)
        self._lifeline.post(self._generation, _common(key), data)

    def get(self, key: str) -> bytes:
        return self._lifeline.posted(self._generation, _common(key), self._timeout_s)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:  # pyright: ignore
        timeout_s = timeout.total_seconds() if timeout else self._timeout_s
        for key in keys:
            self._lifeline.posted(self._generation, _common(key), timeout_s)

    def check(self, keys: list[str]) -> bool:
        return all(self._lifeline.is_posted(_common(key)) for key in keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return True

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self._timeout_s)


def _common(key: str) -> str:
    """Without torch's number before it, how many groups this process has tried to make: a fresh process and
    one that has a group behind it that never came about would not meet. A generation has one group.
    """
    number, slash, rest = key.partition("/")
    return rest if slash and number.isdigit() else key
