"""Where text comes from: 'stdlib', a file or glob, 'hf:<dataset>'. It yields documents in a fixed order."""

import glob
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import xxhash

from isthmus.data.formats import file_format, pick_text, read_documents
from isthmus.errors import InputError, NotFoundError
from isthmus.spec.run import SourceSpec

_OF_THIS_MACHINE = ("_sysconfigdata", "sitecustomize", "usercustomize")
_NOT_STDLIB = {"site-packages", "dist-packages", "ensurepip", "__pycache__"}


@dataclass(frozen=True)
class Source:
    name: str
    """As a person wrote it."""
    key: str
    """Changes when the source does: names, sizes and times of its files, so of this machine alone."""
    size_bytes: int
    """Bytes of text, where known before reading; else 0."""
    documents: Callable[[], Iterator[str]]


def open_source(spec: SourceSpec) -> Source:
    """Finds a source's files and says what it is; reads nothing yet.

    Raises InputError or NotFoundError where nothing matches or the format is unknown.
    """
    if spec.path == "stdlib":
        return _stdlib()
    if spec.path.startswith("hf:"):
        return _hugging_face(spec)
    return _files(spec)


def _files(spec: SourceSpec) -> Source:
    pattern = str(Path(spec.path).expanduser())
    paths = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
    if not paths:
        is_folder = Path(pattern).is_dir()
        raise NotFoundError(
            f"data source '{spec.path}' is a folder" if is_folder else f"no file matches '{spec.path}'",
            hint=f"write a glob such as {spec.path.rstrip('/')}/**/*.jsonl"
            if is_folder
            else "give a file, a glob in quotes, 'stdlib' or 'hf:<dataset>'",
        )
    plain = all(file_format(path) == "text" and path.suffix != ".zst" for path in paths)

    def documents() -> Iterator[str]:
        for path in paths:
            yield from read_documents(path, spec.text_field)

    size, lines = _facts([str(path) for path in paths])
    return Source(spec.path, _key(spec.text_field, *lines), size if plain else 0, documents)


def _facts(paths: list[str]) -> tuple[int, list[str]]:
    """(bytes in all, a line about each file)."""
    found = [(path, os.stat(path)) for path in paths]
    lines = [f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in found]
    return sum(stat.st_size for _, stat in found), lines


def _key(*facts: str) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join(facts).encode("utf-8", "surrogateescape"))


def _stdlib() -> Source:
    root = sysconfig.get_paths()["stdlib"]
    paths = list(_stdlib_files(root))
    if not paths:
        raise NotFoundError(
            "this Python carries no source of its standard library",
            where=root,
            hint="name text files of your own under data.sources",
        )

    def documents() -> Iterator[str]:
        for path in paths:
            try:
                text = Path(path).read_text("utf-8")
            except UnicodeDecodeError:
                continue  # its tests of encodings
            if text.strip():
                yield text
        yield from _topics()

    size, lines = _facts(paths)
    return Source("stdlib", _key("stdlib", sys.version, *lines), size, documents)


def _stdlib_files(root: str) -> Iterator[str]:
    """Source and text files below `root` in a fixed order; its own tests are 60 % of them.

    Without what differs between two machines with the same Python: how it was built, what else is installed.
    """
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in set(names) - _NOT_STDLIB if not name.startswith("config-"))
        for file in sorted(files):
            path = os.path.join(folder, file)
            is_text = file.endswith((".py", ".rst", ".txt")) and not file.startswith(_OF_THIS_MACHINE)
            if is_text and path != os.path.join(root, "pydoc_data", "topics.py") and os.path.isfile(path):
                yield path


def _topics() -> Iterator[str]:
    """The language reference behind `help('...')`, as text rather than as the source of a dict."""
    if find_spec("pydoc_data.topics") is None:
        return
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield topics[name].strip()


def _hugging_face(spec: SourceSpec) -> Source:
    """'hf:<dataset>', 'hf:<dataset>@<configuration>', either with ':<split>' at the end (default train)."""
    if find_spec("datasets") is None:
        raise InputError(
            f"'{spec.path}' needs the package 'datasets', which is not installed",
            hint="pip install 'isthmus[hf]'",
        )
    name, _, split = spec.path.removeprefix("hf:").partition(":")
    name, _, configuration = name.partition("@")
    try:
        dataset = import_module("datasets").load_dataset(name, configuration or None, split=split or "train")
    except (OSError, ValueError, RuntimeError) as e:
        raise NotFoundError(
            f"cannot load the dataset '{name}': {e}", hint="check its name, configuration and split"
        ) from e

    def documents() -> Iterator[str]:
        for row, record in enumerate(dataset):
            yield pick_text(record, spec.text_field, f"{spec.path}, row {row}")

    key = _key(spec.path, spec.text_field, str(dataset._fingerprint))
    return Source(spec.path, key, 0, documents)
