"""Frozen structs -> YAML and JSON, with quantities as people write them."""

from typing import Any

import msgspec
import yaml

from isthmus.spec.build import QUANTITIES
from isthmus.units import exact


def to_yaml(spec: msgspec.Struct) -> str:
    """The spec with every field; loads back to an equal spec."""
    return as_yaml(plain(spec))


def as_yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def plain(value: Any) -> Any:
    """Dicts, lists and scalars; quantities as exact text with their unit."""
    if isinstance(value, QUANTITIES):
        return exact(value)
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def changed(spec: msgspec.Struct) -> dict[str, Any]:
    """Only what differs from the defaults, as `plain`."""
    differing: dict[str, Any] = {}
    for name in spec.__struct_fields__:
        value, default = getattr(spec, name), getattr(type(spec)(), name)
        if value != default:
            differing[name] = changed(value) if isinstance(value, msgspec.Struct) else plain(value)
    return differing
