"""Short forms that people write, made long: `model: tiny-moe`, `chips: {cpu: 2}`, `sources: stdlib`."""

from typing import Any

import msgspec

from isthmus.errors import InputError
from isthmus.spec.document import Document, Key, dotted
from isthmus.spec.presets import presets
from isthmus.spec.suggest import nearest


def lengthen_run(document: Document) -> None:
    """Make `model` a mapping (its `preset` kept) and `data.sources` a list of mappings."""
    model = document.tree.get("model")
    if isinstance(model, str):
        document.tree["model"] = {"preset": model}
    data = document.tree.get("data")
    if not isinstance(data, dict):
        return
    sources = data.get("sources")
    if isinstance(sources, str | dict):
        document.move(("data", "sources"), ("data", "sources", 0))
        sources = [sources]
    if isinstance(sources, list):
        data["sources"] = [{"path": each} if isinstance(each, str) else each for each in sources]


def fill_preset(document: Document) -> None:
    """Replace `model.preset` by the fields of that preset, under those given. InputError if unknown."""
    model = document.tree.get("model")
    if not isinstance(model, dict) or "preset" not in model:
        return
    name = str(model.pop("preset"))
    if name not in presets:
        hint = nearest(name, presets) or f"known are {', '.join(presets)}"
        where = document.where(("model", "preset"))
        raise InputError(f"model: unknown preset '{name}'", where=where, hint=hint)
    document.tree["model"] = msgspec.to_builtins(presets[name]) | model


def lengthen_fleet(document: Document) -> None:
    """Turn a site's `chips` (and a number of `nodes`) into a list of nodes."""
    sites = document.tree.get("sites")
    if not isinstance(sites, dict):
        return
    for name, site in sites.items():
        if isinstance(site, dict):
            sites[name] = _lengthen_site(document, ("sites", name), site)


def _lengthen_site(document: Document, key: Key, site: dict[str, Any]) -> dict[str, Any]:
    nodes, chips = site.get("nodes"), site.get("chips")
    is_count = isinstance(nodes, int) and not isinstance(nodes, bool)
    if chips is None and not is_count:
        return site
    if not (nodes is None or is_count):
        where, name = document.where((*key, "chips")), dotted(key)
        hint = "with `chips` beside it, `nodes` is how many such nodes there are"
        raise InputError(f"{name}: both `chips` and a list of nodes", where=where, hint=hint)
    document.places.setdefault((*key, "nodes"), document.where((*key, "chips")))
    node: dict[str, Any] = {}
    for old, new, value in (("nodes", "count", nodes), ("chips", "chips", chips)):
        if value is not None:
            document.move((*key, old), (*key, "nodes", 0, new))
            node[new] = value
    return {name: value for name, value in site.items() if name != "chips"} | {"nodes": [node]}
