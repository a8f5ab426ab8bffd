"""What must hold whatever happens, and how a schedule in which it does not is told."""

from collections.abc import Sequence

import msgspec


class InvariantError(AssertionError):
    """An invariant is broken."""


def hold(truth: bool, what: str) -> None:
    if not truth:
        raise InvariantError(what)


def broken(seed: int, at_s: float, error: Exception, faults: Sequence[str], again: str) -> InvariantError:
    """To be raised from `error`, whatever that is. It tells the faults, and the command that repeats it."""
    what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    told = [f"seed {seed}: {what}", f"  at {at_s:.1f} s, faults:", *(f"    {fault}" for fault in faults)]
    return InvariantError("\n".join([*told, f"  again: {again}"]))


def command(package: str, seed: int, config: msgspec.Struct) -> str:
    """One line that runs this schedule again."""
    usual = type(config)()
    given = ", ".join(
        f"{name}={getattr(config, name)!r}"
        for name in config.__struct_fields__
        if getattr(config, name) != getattr(usual, name)
    )
    return f'python -c "from {package} import *; print(simulate({seed}, SimConfig({given})))"'
