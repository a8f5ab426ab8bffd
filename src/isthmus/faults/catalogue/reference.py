"""docs/catalogue.md, made from the YAML. `python -m isthmus.faults.catalogue.reference` writes it anew."""

from pathlib import Path

from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.load import load_catalogue

PAGE = "docs/catalogue.md"

HEAD = """# Catalogue of faults

What faults of training look like in logs, and what is done about them. Made from the catalogue by
`python -m isthmus.faults.catalogue.reference`; a test fails when it is stale. `isthmus faults show ID` prints
an entry with its cause, its signature and how to verify that the action worked; `isthmus faults search`
finds one by words or by a pasted line.

A victim is what ranks show that suffer from another one's fault: it is not blamed while another is found.

## Your own entries

`isthmus faults learn LOG --out my/new.yaml` drafts an entry from a failure that none describes. Complete it,
and give the folder to any of these commands with `--catalogue my`. An entry has:

| field | meaning |
|---|---|
| `id` | capital letters, digits, hyphens; unlike all others |
| `title` | one line: what happened |
| `class` | one of the classes of `isthmus.faults.terms` |
| `chips` | nvidia, amd, ascend, ...; `any` where it is not of a chip |
| `signature` | regular expressions, each searched in one line; see below |
| `cause` | why it happens |
| `victim` | true if it is usually another rank's fault |
| `blast_radius` | rank, node, group, site or job: what stops with it |
| `action` | what the system does; one of those of `isthmus.faults.terms` |
| `verify` | how to know that the action worked |
| `sources` | documents or issues it rests on |
| `tests` | real lines of logs, each of which the signature hits |

A signature keeps to what RE2 understands, without look-around and back-references, and holds a run of at
least 4 plain characters that every line it hits contains: so a log is searched for all entries at once.
"""


def reference() -> str:
    """The page: a table for each file."""
    catalogue = load_catalogue()
    lines = [HEAD, f"{len(catalogue.by_id)} entries in {len(catalogue.files)} files.", ""]
    for name, entries in catalogue.files.items():
        lines += [f"## {name.removesuffix('.yaml')}", ""]
        lines += ["| id | title | class | action | victim | sources |", "|---|---|---|---|---|---|"]
        lines += [_line(entry) for entry in entries]
        lines.append("")
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    cells = [entry.id, entry.title, entry.kind, entry.action, "yes" if entry.victim else ""]
    return f"| {' | '.join(map(_cell, cells))} | {'<br>'.join(map(_cell, entry.sources))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    Path(PAGE).write_text(reference(), encoding="utf-8")
