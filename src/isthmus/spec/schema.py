"""JSON schema of fleet.yaml and run.yaml, for editors: completion, ranges, and each field's docstring."""

from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from isthmus.spec.build import QUANTITIES
from isthmus.spec.dump import plain
from isthmus.spec.fields import describe, summary
from isthmus.spec.fleet import FleetSpec
from isthmus.spec.presets import presets
from isthmus.spec.run import RunSpec

Schema = dict[str, Any]

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null"}
_RANGES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def run_schema() -> Schema:
    """Of run.yaml, short forms included."""
    schema = document(RunSpec, "run.yaml")
    properties = schema["properties"]
    model = properties["model"]
    preset = {"enum": list(presets), "description": "Preset whose fields the others replace."}
    model["properties"] = {"preset": preset, **model["properties"]}
    properties["model"] = _either(model, {"enum": list(presets)})
    data = properties["data"]["properties"]
    source = data["sources"]["items"]
    data["sources"]["items"] = _either(source, {"type": "string"})
    data["sources"] = _either(data["sources"], {"type": "string"}, source)
    return schema


def fleet_schema() -> Schema:
    """Of fleet.yaml, short forms included."""
    schema = document(FleetSpec, "fleet.yaml")
    site = schema["properties"]["sites"]["additionalProperties"]["properties"]
    site["chips"] = site["nodes"]["items"]["properties"]["chips"]
    site["nodes"] = _either(site["nodes"], {"type": "integer", "minimum": 1})
    return schema


def document(struct: type[msgspec.Struct], title: str) -> Schema:
    """Of a file that holds the struct."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_struct(struct)}


def _either(first: Schema, *others: Schema) -> Schema:
    """`first` or a short form; what describes the field moves outside."""
    outside = {name: first.pop(name) for name in ("description", "default") if name in first}
    return {**outside, "anyOf": [first, *others]}


def _struct(struct: type[msgspec.Struct]) -> Schema:
    """A section left empty in YAML is null and means the defaults."""
    properties: Schema = {}
    for field in describe(struct):
        properties[field.name] = {**_schema(field.kind), "description": field.doc}
        if not isinstance(field.default, msgspec.Struct) and field.default is not msgspec.NODEFAULT:
            properties[field.name]["default"] = plain(field.default)
    required = [field.name for field in describe(struct) if field.default is msgspec.NODEFAULT]
    return {
        "type": "object" if required else ["object", "null"],
        **({"required": required} if required else {}),
        "description": summary(struct),
        "properties": properties,
        "additionalProperties": False,
    }


def _schema(kind: Any) -> Schema:
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Annotated:
            limits = {name: getattr(arguments[1], short) for short, name in _RANGES.items()}
            return _schema(arguments[0]) | {
                name: limit for name, limit in limits.items() if limit is not None
            }
        case origin if origin is Literal:
            return {"enum": list(arguments)}
        case origin if origin is list:
            return {"type": "array", "items": _schema(arguments[0])}
        case origin if origin is dict:
            return {"type": "object", "additionalProperties": _schema(arguments[1])}
        case origin if origin is tuple:
            size = len(arguments)
            items = [_schema(each) for each in arguments]
            return {"type": "array", "prefixItems": items, "minItems": size, "maxItems": size}
    if kind in QUANTITIES:
        units = "|".join(sorted(kind.UNITS))
        text = {
            "type": "string",
            "pattern": rf"^\s*[0-9][0-9_.eE+-]*\s*({units})\s*$",
            "examples": [kind.EXAMPLE],
        }
        return {"anyOf": [text, {"type": "number", "minimum": 0}]}
    if issubclass(kind, msgspec.Struct):
        return _struct(kind)
    return {"type": _SCALARS[kind]}
