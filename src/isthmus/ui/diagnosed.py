"""A diagnosis as people read it, and as one JSON object."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isthmus.faults.diagnose.run import Examined
from isthmus.faults.diagnosis import Evidence, Suspicion
from isthmus.ui import text

MAX_RANKS = 12
MAX_PROBLEMS = 5
_ACTIONS = {
    "retry": "try again",
    "restart_rank": "restart the rank on the same node",
    "replace_node": "put a spare in the node's place",
    "rollback": "go back to the last checkpoint before it",
    "shrink": "go on without it",
    "quarantine": "take it out, and test it before it returns",
    "fix_config": "change settings, program or data; a restart alone fails again",
    "wait": "wait: it passes by itself",
    "alert_human": "a person has to look",
}


def as_json(examined: Examined) -> dict[str, Any]:
    """`class` is null where nothing was found."""
    found = examined.diagnosis
    return {
        **msgspec.to_builtins(found.best),
        "cause": found.cause,
        "verify": found.verify,
        "evidence": msgspec.to_builtins(found.evidence),
        "victims": list(found.victims),
        "culprits": list(found.culprits),
        "runner_up": msgspec.to_builtins(found.runner_up),
    }


def show(examined: Examined) -> RenderableType:
    found = examined.diagnosis
    read = f"{examined.num_files:,} files, {examined.num_lines:,} lines, {text.size(examined.num_bytes)}"
    if found.best.kind is None:
        lines = [Text("No known fault was found.", style="yellow"), Text(f"read: {read}", style="dim")]
        return Group(*lines, *(Text(f"not read: {problem}") for problem in _unread(examined)))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(examined):
        facts.add_row(Text(name, style="dim"), value)
    parts: list[RenderableType] = [Text(headline(found.best), style="bold red"), Padding(facts, (0, 0, 1, 2))]
    if found.evidence:
        parts += [Text("evidence", style="bold"), Padding(_evidence(found.evidence), (0, 0, 1, 2))]
    if examined.first:
        parts += [
            Text("first trouble of each rank", style="bold"),
            Padding(_timeline(examined), (0, 0, 1, 2)),
        ]
    parts.append(Text(f"read: {read}", style="dim"))
    return Group(*parts)


def headline(best: Suspicion) -> str:
    """`ecc on rank 37 (XID-48), confidence 0.85`"""
    where = f"rank {best.rank}" if best.rank is not None else best.place or "a rank that nothing names"
    entry = f" ({best.entry})" if best.entry else ""
    return f"{best.kind} on {where}{entry}, confidence {best.confidence:.2f}"


def _facts(examined: Examined) -> list[tuple[str, Text]]:
    found = examined.diagnosis
    rows = [
        ("cause", found.cause),
        ("action", f"{found.best.action}: {_ACTIONS[found.best.action]}"),
        ("verify", found.verify),
        ("also to blame", _numbers(found.culprits[1:])),
        ("victims", _numbers(found.victims)),
        ("or else", headline(found.runner_up) if found.runner_up else ""),
    ]
    rows += [("not read", problem) for problem in _unread(examined)]
    return [(name, Text(value)) for name, value in rows if value]


def _unread(examined: Examined) -> Sequence[str]:
    return examined.problems[:MAX_PROBLEMS]


def _numbers(ranks: Sequence[int]) -> str:
    shown = ", ".join(f"{rank}" for rank in ranks[:MAX_RANKS])
    return f"{shown} and {len(ranks) - MAX_RANKS} more" if len(ranks) > MAX_RANKS else shown


def _evidence(evidence: Sequence[Evidence]) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in evidence:
        rank = "" if each.rank is None else f"rank {each.rank}"
        when = "" if each.wall_s is None else text.clock(each.wall_s)
        table.add_row(Text(rank), Text(when), Text(each.where, style="cyan"), Text(each.text[:200]))
    return table


def _timeline(examined: Examined) -> Table:
    """Earliest first; ranks whose lines tell no time come last."""
    table = Table.grid(padding=(0, 2))
    told = sorted(examined.first.items(), key=lambda each: (each[1][0] is None, each[1][0] or 0.0, each[0]))
    for rank, (wall_s, said) in told[:MAX_RANKS]:
        blamed = rank in examined.diagnosis.culprits
        when = text.NONE if wall_s is None else text.clock(wall_s)
        table.add_row(Text(f"rank {rank}", style="bold red" if blamed else ""), Text(when), Text(said))
    if len(told) > MAX_RANKS:
        table.add_row(Text(f"and {len(told) - MAX_RANKS} more"), Text(""), Text(""))
    return table
