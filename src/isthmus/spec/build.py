"""Plain values -> frozen structs, collecting every problem with its key instead of stopping at the first."""

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from isthmus.spec.document import Key, dotted
from isthmus.spec.suggest import nearest
from isthmus.units import Bandwidth, Bytes, Count, Seconds

QUANTITIES = (Seconds, Bytes, Bandwidth, Count)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong at `key`, and the remedy."""

    key: Key
    message: str
    hint: str


def build(kind: Any, value: Any, key: Key, problems: list[Problem]) -> Any:
    """`value` as `kind` (struct, dict[str, _], list[_], or what msgspec converts). Null means the default.

    What cannot be converted is added to `problems`; the result is meaningless then.
    """
    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict | None):
        return _build_struct(kind, value or {}, key, problems)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: build(arguments[1], each, (*key, name), problems) for name, each in value.items()}
    if get_origin(kind) is list and isinstance(value, list):
        return [build(arguments[0], each, (*key, index), problems) for index, each in enumerate(value)]
    if not all(math.isfinite(number) for number in _floats(value)):
        problems.append(Problem(key, f"{dotted(key)}: {value} is not finite", "write a finite number"))
        return None
    try:
        return msgspec.convert(value, kind, dec_hook=_parse_quantity)
    except msgspec.ValidationError as error:
        problems.append(_wrong_value(kind, value, key, str(error)))


def _floats(value: Any) -> list[float]:
    numbers = value if isinstance(value, list) else [value]
    return [number for number in numbers if isinstance(number, float)]


def _build_struct(
    kind: type[msgspec.Struct], value: dict[str, Any], key: Key, problems: list[Problem]
) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for name, each in value.items():
        if name not in hints:
            remedy = nearest(name, hints) or f"known here are {', '.join(hints)}"
            place = f" in {dotted(key)}" if key else ""
            problems.append(Problem((*key, name), f"unknown key '{name}'{place}", remedy))
        elif each is not None:
            fields[name] = build(hints[name], each, (*key, name), problems)
    missing = [
        each.name for each in msgspec.structs.fields(kind) if each.required and each.name not in fields
    ]
    for name in missing:
        problems.append(Problem(key, f"{dotted(key)}: '{name}' is missing", "give it; it has no default"))
    return None if missing else kind(**fields)


def _parse_quantity(kind: type, value: Any) -> Any:
    return kind.parse(value)


def _wrong_value(kind: Any, value: Any, key: Key, error: str) -> Problem:
    """msgspec's message in the words of the file: the value instead of its type, no `$` path."""
    text = error.split(" - at `$")[0]
    if kind in QUANTITIES:
        return Problem(key, f"{dotted(key)}: {text}", f"write for example '{kind.EXAMPLE}'")
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        hint = nearest(str(value), choices) or "choose one of them"
        return Problem(key, f"{dotted(key)}: {value!r} is none of {', '.join(choices)}", hint)
    expected = text.removeprefix("Expected ").split(", got")[0].replace("`", "")
    hint = (
        "put it in quotes"
        if expected == "str" and isinstance(value, int | float)
        else f"write {_a(expected)}"
    )
    return Problem(key, f"{dotted(key)}: {_shown(value)} is not {_a(expected)}", hint)


def _a(expected: str) -> str:
    names = {"object": "a mapping (key: value)", "array": "a list", "str": "text", "bool": "true or false"}
    names |= {"int": "a whole number", "float": "a number"}
    word, _, rest = expected.partition(" ")
    return f"{names.get(word, word)} {rest}".strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
