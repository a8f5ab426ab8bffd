"""What the structs say about themselves: docstring, type and default of each field, from their source."""

import ast
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import NODEFAULT, structs


class Field(msgspec.Struct, frozen=True):
    name: str
    kind: Any
    """Its type, with ranges."""
    default: Any
    """msgspec.NODEFAULT if it must be given."""
    doc: str
    """In one line."""


def describe(struct: type[msgspec.Struct]) -> list[Field]:
    """The fields in order. KeyError if one has no docstring."""
    hints = get_type_hints(struct, include_extras=True)
    docs = _docstrings(struct)
    return [
        Field(each.name, hints[each.name], _default(each), docs[each.name]) for each in structs.fields(struct)
    ]


def summary(struct: type[msgspec.Struct]) -> str:
    """The struct's docstring in one line."""
    return " ".join((struct.__doc__ or "").split())


def _default(field: structs.FieldInfo) -> Any:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def _docstrings(struct: type) -> dict[str, str]:
    """Python keeps no docstring of a field, so the string after each is taken from the syntax tree."""
    source = Path(sys.modules[struct.__module__].__file__ or "").read_text(encoding="utf-8")
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == struct.__name__
    )
    docs: dict[str, str] = {}
    for field, after in pairwise(body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs
