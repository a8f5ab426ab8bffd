"""`isthmus faults`: the catalogue of faults, and drafts of new entries."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.catalogue.load import load_catalogue
from isthmus.journal.store import DiskStore
from isthmus.spec.suggest import nearest
from isthmus.ui import faults_view, tables

app = App(name="faults", help="Look up faults: what they look like, and what to do about them.")

Extra = Annotated[Path | None, Parameter(name="--catalogue")]
Word = Annotated[str, Parameter(allow_leading_hyphen=True)]


@app.command(name="list")
def list_(
    *,
    class_: Annotated[str, Parameter(name="--class")] = "",
    chip: str = "",
    catalogue: Extra = None,
    json_: bool = False,
) -> None:
    """List the entries of the catalogue.

    Parameters
    ----------
    class_
        Only those of this class, such as nan.
    chip
        Only those of this chip, such as ascend, and those of any chip.
    catalogue
        A folder with more entries in YAML.
    json_
        Print one JSON array of the entries.
    """
    known = load_catalogue(catalogue)
    _check(class_, {entry.kind for entry in known.entries}, "--class")
    _check(chip.lower(), {name for entry in known.entries for name in entry.chips}, "--chip")
    found = [
        entry
        for entry in known.entries
        if class_ in ("", entry.kind) and (not chip or {chip.lower(), "any"} & set(entry.chips))
    ]
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(faults_view.listed(found))


@app.command
def show(id: str, *, catalogue: Extra = None, json_: bool = False) -> None:
    """Show one entry: its cause, what is done about it, and how to know that it worked.

    Parameters
    ----------
    id
        Such as XID-79; small letters will do.
    catalogue
        A folder with more entries in YAML.
    json_
        Print the entry as one JSON object.
    """
    known = load_catalogue(catalogue)
    found = known.by_id.get(id.upper())
    if found is None:
        hint = nearest(id, [name.lower() for name in known.by_id])
        raise NotFoundError(
            "no such entry", where=id, hint=hint or "`isthmus faults search` finds one by words"
        )
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(faults_view.shown(found))


@app.command
def search(*words: Word, catalogue: Extra = None, json_: bool = False) -> None:
    """Find entries: by a pasted line of a log, or by words.

    A line that signatures hit gives these entries; else those that hold the words, the best first.

    Parameters
    ----------
    words
        A line of a log in quotes, or words.
    catalogue
        A folder with more entries in YAML.
    json_
        Print one JSON array: [{"entry", "score", "line"}].
    """
    from isthmus.faults.catalogue.find import search as find

    text = " ".join(words)
    if not text.strip():
        raise InputError("nothing to search for", where="WORDS", hint="paste a line of a log, or some words")
    found = find(load_catalogue(catalogue), text)
    if not found:
        raise NotFoundError(
            "nothing fits", where=text[:80], hint="`isthmus faults learn LOG` drafts an entry from a log"
        )
    if json_:
        print(msgspec.json.encode(found).decode())
    else:
        tables.console().print(faults_view.matched(found))


@app.command
def learn(
    logs: Annotated[tuple[Path, ...], Parameter(negative="")],
    *,
    rank: int | None = None,
    out: Path | None = None,
    catalogue: Extra = None,
) -> None:
    """Draft an entry from the logs of a failure that no entry describes.

    Picks the most telling line that looks like an error and hits no entry, and makes a signature of it. What
    a person must fill in is marked; until then the draft is refused where it is loaded.

    Parameters
    ----------
    logs
        The logs of the failure.
    rank
        Look only at lines of this rank, and at those that name none.
    out
        Write the draft here instead of printing it.
    catalogue
        A folder with more entries in YAML.
    """
    from isthmus.faults.catalogue.find import Signatures
    from isthmus.faults.catalogue.learn import draft, to_yaml

    lines = [line for path in logs for line in _lines(path)]
    found = draft(lines, Signatures(load_catalogue(catalogue).entries), rank)
    if found is None:
        raise NotFoundError(
            "no line looks like an error that the catalogue lacks",
            where=", ".join(map(str, logs)),
            hint="`isthmus faults search 'THE LINE'` tells which entry a line hits",
        )
    if out:
        DiskStore().write_atomic(out, to_yaml(found).encode())
    else:
        print(to_yaml(found), end="")


def _check(value: str, known: set[str], option: str) -> None:
    if value and value not in known:
        hint = nearest(value, known) or f"one of {', '.join(sorted(known))}"
        raise InputError("there is no such entry", where=f"{option} {value}", hint=hint)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise NotFoundError("no such file", where=str(path), hint="name the log of a rank") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), hint="name a file") from None
