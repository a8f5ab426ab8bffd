"""Plans and profiles as files, and scores of measured runs as a table."""

from pathlib import Path
from typing import TypeVar

import msgspec
from rich.table import Table

from isthmus.errors import InputError, NotFoundError
from isthmus.journal.store import DiskStore
from isthmus.planner.plan import Plan
from isthmus.planner.probed.profile import Profile
from isthmus.planner.published.score import Score


def read_plan(path: Path) -> Plan:
    """Raises NotFoundError, and InputError if it is not a plan."""
    return _read(path, Plan, "isthmus plan --out")


def read_if(path: Path | None) -> Plan | None:
    """The plan of a file that was named, if one was."""
    return read_plan(path) if path else None


def read_profile(path: Path) -> Profile:
    """Raises NotFoundError, and InputError if it is not a profile."""
    return _read(path, Profile, "isthmus probe --out")


def save(path: Path | None, value: msgspec.Struct) -> None:
    """As JSON, where a path is named."""
    if path:
        DiskStore().write_atomic(path, msgspec.json.format(msgspec.json.encode(value)))


def read_text(path: Path) -> str:
    """Raises NotFoundError, and InputError if it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(path), hint="check the path") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"this is no text: {error}", where=str(path), hint="check the path") from None


_T = TypeVar("_T")


def _read(path: Path, kind: type[_T], made_by: str) -> _T:
    hint = f"`{made_by} FILE` makes one"
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(path), hint=hint) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, IsADirectoryError) as error:
        what = kind.__name__.lower()
        raise InputError(f"this is no {what}: {error}", where=str(path), hint=hint) from None


def scores(rows: list[Score]) -> Table:
    table = Table(title="Nine of ten such runs take between low and high.", title_justify="left")
    for column in ("id", "step s", "low", "high", "tokens/s/chip", "TFLOPS/chip", "memory GiB"):
        table.add_column(column, justify="left" if column == "id" else "right", no_wrap=True)
    table.add_column("assumed, or why not")
    for each in rows:
        table.add_row(each.id, *_figures(each), _told(each))
    return table


def _figures(score: Score) -> list[str]:
    low, high = score.interval or (None, None)
    figures = (
        score.step_time_s, low, high, score.tokens_per_s_per_chip, score.tflops_per_chip, score.memory_gb,
    )  # fmt: skip
    return ["-" if value is None else f"{value:.4g}" for value in figures]


def _told(score: Score) -> str:
    assumed = [line.removeprefix("assumed: ") for line in score.provenance if line.startswith("assumed: ")]
    return score.reason or "; ".join(assumed)
