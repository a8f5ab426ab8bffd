"""YAML read once: plain values, and for each of them the line it came from."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from isthmus.errors import InputError, NotFoundError

Key = tuple[str | int, ...]
"""The way to a value: ("sites", "jinan", "nodes", 0)."""

MAX_VALUES = 100_000
MAX_DEPTH = 32

_SCALARS = {
    "tag:yaml.org,2002:null": re.compile(r"~|null|Null|NULL|"),
    "tag:yaml.org,2002:bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*)"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


def dotted(key: Key) -> str:
    return ".".join(map(str, key))


@dataclass
class Document:
    """`tree` holds dicts, lists and scalars; `places` says where the parts of it were written."""

    name: str
    tree: Any = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Place of the value, or of the nearest part above it that was written."""
        ways = (key[:end] for end in range(len(key), 0, -1))
        return next((self.places[way] for way in ways if way in self.places), self.name)

    def move(self, old: Key, new: Key) -> None:
        """What was written at `old` is from now on found at `new`."""
        for key in [key for key in self.places if key[: len(old)] == old]:
            self.places[new + key[len(old) :]] = self.places[key]

    def override(self, text: str) -> None:
        """Apply `a.b=c`, with c read as YAML; a number picks from a list. InputError names the override."""
        place = f"--set {text}"
        name, equals, value = text.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise InputError("not of the form key=value", where=place, hint="for example train.lr=3e-4")
        key = _assign(self.tree, parts, _parse(value, place).tree, place)
        for stale in [way for way in self.places if way[: len(key)] == key]:
            del self.places[stale]
        self.places[key] = place


def _assign(root: Any, parts: list[str], value: Any, place: str) -> Key:
    """Write `value` into the tree, adding mappings on the way; the key it now has."""
    key: Key = ()
    tree: Any = root
    for part in parts:
        step: Any = int(part) if isinstance(tree, list) and part.isdecimal() else part
        if not isinstance(tree, dict) and not (isinstance(step, int) and step < len(tree)):
            raise InputError(
                f"{dotted(key)} has no part '{part}'", where=place, hint=f"set {dotted(key)} as a whole"
            )
        key = (*key, step)
        if len(key) == len(parts):
            tree[step] = value
        elif isinstance(tree, dict) and tree.get(part) is None:
            tree[step] = {}
        tree = tree[step]
    return key


def read_document(path: Path | None) -> Document:
    """The document in `path`; an empty one for None. NotFoundError, or InputError with file and line."""
    if path is None:
        return Document("defaults")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFoundError("no such file", where=str(path), hint="check the path, or leave it out") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(path), hint="give a UTF-8 text file") from None
    document = _parse(text, str(path))
    if document.tree is None:
        document.tree = {}
    if not isinstance(document.tree, dict):
        raise InputError("not a mapping of keys to values", where=f"{path}:1", hint="start with 'train:'")
    return document


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them: `1e-3` is a number, `no` and `12:30` are words."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            for tag, pattern in _SCALARS.items():
                if pattern.fullmatch(value):
                    return tag
            implicit = (False, True)
        return super().resolve(kind, value, implicit)


def _parse(text: str, name: str) -> Document:
    document = Document(name)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document.tree = None if node is None else _value(loader, node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        hint = "check indentation, colons and quotes on this line and the one before"
        raise InputError(f"not valid YAML: {error.problem}", where=where, hint=hint) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", where=name, hint="remove the character") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"not valid YAML: {error}", where=name, hint="write it more simply") from None
    return document


def _value(loader: _Loader, node: yaml.Node, key: Key, document: Document) -> Any:
    line = node.start_mark.line + 1
    if len(key) > MAX_DEPTH or len(document.places) > MAX_VALUES:
        raise InputError("nested too deeply or too large", where=f"{document.name}:{line}", hint="shorten it")
    if key:
        document.places.setdefault(key, f"{document.name}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*key, index), document) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for name_node, value_node in node.value:
        place = f"{document.name}:{name_node.start_mark.line + 1}"
        name = name_node.value
        if not isinstance(name, str):
            raise InputError("a key must be a plain word", where=place, hint="quote it if it is text")
        if name in mapping:
            first = document.places[(*key, name)]
            raise InputError(
                f"'{name}' is given twice, first at {first}", where=place, hint="remove one of them"
            )
        document.places[(*key, name)] = place
        mapping[name] = _value(loader, value_node, (*key, name), document)
    return mapping
