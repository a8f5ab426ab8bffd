"""What a nursery is asked for."""

import msgspec


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """One process to fork."""

    process: str
    module: str
    """Its `main(arguments) -> exit code` is run."""
    arguments: list[str]
    log: str
    env: dict[str, str] = {}
    threads: int = 1
