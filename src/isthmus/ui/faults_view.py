"""Entries of the catalogue of faults in the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.find import Match


def listed(entries: Sequence[Entry]) -> RenderableType:
    """A row for each."""
    return Group(_table(entries), Text(f"{len(entries)} entries", style="dim"))


def shown(entry: Entry) -> RenderableType:
    """All of one entry."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = (
        ("class", entry.kind),
        ("chips", ", ".join(entry.chips)),
        ("cause", entry.cause),
        ("seen on", "ranks that suffer from another one's fault" if entry.victim else "the rank at fault"),
        ("stops", entry.blast_radius),
        ("action", entry.action),
        ("verify", entry.verify),
        ("signature", "\n".join(entry.signature)),
        ("such as", "\n".join(entry.tests)),
        ("sources", "\n".join(entry.sources)),
    )
    for name, value in rows:
        table.add_row(name, Text(value))
    return Group(Text(f"{entry.id}  {entry.title}", style="bold"), table)


def matched(found: Sequence[Match]) -> RenderableType:
    """The best in full where a signature hit, a row for each of the others."""
    entries = [match.entry for match in found]
    if not found[0].line:
        return _table(entries)
    return Group(shown(entries[0]), *([Text("\nalso"), _table(entries[1:])] if entries[1:] else []))


def _table(entries: Iterable[Entry]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("id", "class", "action"):
        table.add_column(name, no_wrap=True)
    table.add_column("title", overflow="fold")
    for entry in entries:
        table.add_row(entry.id, entry.kind, entry.action, entry.title)
    return table
