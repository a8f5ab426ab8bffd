"""The catalogue as it is on disk: `entries:` lists in the YAML files of this folder, and of your own."""

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import yaml

from isthmus.errors import InputError, NotFoundError
from isthmus.faults.catalogue.check import problems
from isthmus.faults.catalogue.entry import Entry
from isthmus.spec.document import read_document

FOLDER = Path(__file__).parent


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """All entries, those of your own folder last."""

    files: dict[str, list[Entry]]
    """By the name of their file, in the order of the names."""
    by_id: dict[str, Entry]

    @property
    def entries(self) -> list[Entry]:
        return list(self.by_id.values())


@cache
def load_catalogue(extra: Path | None = None) -> Catalogue:
    """What is shipped, and the YAML files of the folder `extra`; read once in a process.

    The files of `extra` are checked in full; those shipped are checked by the tests, and here only for their
    form. InputError names file, line and entry; NotFoundError if there is no such folder.
    """
    files = {path.name: read_entries(path) for path in sorted(FOLDER.glob("*.yaml"))}
    if extra is not None:
        for path in _files(extra):
            files[str(path)] = read_entries(path)
            check_file(path, files[str(path)])
    return Catalogue(files=files, by_id=_by_id(files))


def read_entries(path: Path) -> list[Entry]:
    """The entries of one file; no key unknown, none missing, all of the right kind."""
    try:
        tree = yaml.load(path.read_bytes(), Loader=yaml.CBaseLoader)
        return msgspec.convert(tree["entries"], list[Entry], strict=False)
    except (
        yaml.YAMLError,
        msgspec.ValidationError,
        OSError,
        TypeError,
        KeyError,
        UnicodeDecodeError,
    ) as error:
        raise _where_wrong(path, error) from None


def check_file(path: Path, entries: list[Entry]) -> None:
    """Raises InputError for the first entry that is incomplete, or whose tests its signature does not hit."""
    for entry in entries:
        for found in problems(entry):
            raise InputError(
                f"{entry.id}: {found}",
                where=str(path),
                hint="docs/catalogue.md says what an entry needs; a draft is completed by hand",
            )


def _by_id(files: dict[str, list[Entry]]) -> dict[str, Entry]:
    by_id: dict[str, Entry] = {}
    for name, entries in files.items():
        for entry in entries:
            if entry.id in by_id:
                raise InputError(
                    f"{entry.id}: there is an entry of this id already",
                    where=name,
                    hint="give it another id; an entry cannot replace another one",
                )
            by_id[entry.id] = entry
    return by_id


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError("no such folder", where=str(folder), hint="name a folder of catalogue YAML files")
    return sorted(chain(folder.glob("*.yaml"), folder.glob("*.yml")))


def _where_wrong(path: Path, error: Exception) -> InputError:
    """The same error with its line: read again, slowly, remembering what was written where."""
    document = read_document(path)
    entries = document.tree.get("entries")
    if not isinstance(entries, list):
        return InputError("there is no list of entries", where=str(path), hint="start with 'entries:'")
    for index, entry in enumerate(entries):
        try:
            msgspec.convert(_as_text(entry), Entry, strict=False)
        except msgspec.ValidationError as wrong:
            name = entry.get("id", "?") if isinstance(entry, dict) else "?"
            return InputError(
                f"entry {index + 1} ({name}): {wrong}",
                where=document.where(("entries", index)),
                hint=f"an entry has {', '.join(Entry.__struct_encode_fields__)}",
            )
    return InputError(f"cannot be read: {error}", where=str(path), hint="write it as the others are written")


def _as_text(value: Any) -> Any:
    """As `read_entries` sees it: every scalar is text."""
    if isinstance(value, dict):
        return {name: _as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
