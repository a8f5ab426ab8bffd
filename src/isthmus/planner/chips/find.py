"""A chip by any spelling: the fleet's own definitions first, then the catalogue."""

import difflib
import re
from functools import cache
from typing import Any

import msgspec

from isthmus.errors import InputError
from isthmus.planner.chips.catalog import catalog
from isthmus.planner.chips.chip import ChipModel
from isthmus.spec.fleet import ChipSpec, FleetSpec

_MAKERS = (
    "nvidia", "amd", "instinct", "intel", "huawei", "google", "aws", "hygon", "cambricon", "metax",
    "iluvatar", "moorethreads", "kunlunxin",
)  # fmt: skip
_FAMILIES = ("cuda", "gpu", "ascend", "npu", "rocm", "tpu", "xpu")
"""What a fleet may run on without saying which model it is: too little to plan with."""
_DEFINE = (
    "a chip of your own goes into fleet.yaml as `chips: {NAME: {like: KNOWN, bf16_tflops: ..., memory: ...}}`"
)


def find_chip(name: str, fleet: FleetSpec | None = None) -> ChipModel:
    """'A100-80G', 'a100', 'NVIDIA A100-SXM4-80GB' -> the same chip. `fleet.chips` goes before the catalogue.

    The number of chips that published tables add to a name, as in 'GH-96x64', is passed over. InputError for
    an unknown name, with the nearest ones, and for a family such as 'cuda' that is no model.
    """
    return _find(name, fleet.chips if fleet else {})


def _find(name: str, own: dict[str, ChipSpec]) -> ChipModel:
    for key in _keys(name):
        for each, spec in own.items():
            if key == _key(each):
                # Without itself, so that a chip may be like its namesake in the catalogue.
                rest = {other: value for other, value in own.items() if other != each}
                return _own_chip(each, spec, rest)
        if key in _index():
            return _index()[key]
    raise _unknown(name, list(own))


def _keys(name: str) -> list[str]:
    """The spelling, and what it may be with something left out: a comment, the maker, a number of chips."""
    said = [_key(name), _key(name.partition(";")[0]), _key(re.sub(r"\(.*", "", name))]
    bare = [_without_maker(key) for key in said]
    return [*said, *bare, *(re.sub(r"x\d+$", "", key) for key in [*said, *bare])]


def _key(name: str) -> str:
    """Lower case, letters and digits only, '80GB' as '80g'."""
    return re.sub(r"(\d)gi?b", r"\1g", re.sub(r"[^a-z0-9]", "", name.lower()))


def _without_maker(key: str) -> str:
    for maker in _MAKERS:
        key = key.removeprefix(maker)
    return key


@cache
def _index() -> dict[str, ChipModel]:
    return {_key(each): chip for chip in catalog().values() for each in [*chip.aliases, chip.name]}


def _unknown(name: str, own: list[str]) -> InputError:
    if _key(name) in _FAMILIES:
        return InputError(
            f"'{name}' is a family of chips, not a model",
            where="chips",
            hint="name the model, as 'h100' or 'ascend910b', or measure the machine with `isthmus probe`",
        )
    names = {_key(each): each for each in [*_names(), *own]}
    near = difflib.get_close_matches(_without_maker(_key(name)), list(names), n=4, cutoff=0.5)
    told = dict.fromkeys(names[key] for key in near)
    nearest = f"nearest are {', '.join(told)}; " if told else ""
    return InputError(f"unknown chip '{name}'", where="chips", hint=nearest + _DEFINE)


def _names() -> dict[str, str]:
    """Any spelling -> the name in the catalogue."""
    return {each: chip.name for chip in catalog().values() for each in [chip.name, *chip.aliases]}


def _own_chip(name: str, spec: ChipSpec, rest: dict[str, ChipSpec]) -> ChipModel:
    """The fleet's chip: `like`, of `rest` or the catalogue, with what differs."""
    given: dict[str, Any] = {
        "fp32_tflops": spec.fp32_tflops,
        "bf16_tflops": spec.bf16_tflops,
        "fp8_tflops": spec.fp8_tflops,
        "memory_gib": spec.memory / 2**30,
        "memory_gb_s": spec.memory_bandwidth.bytes_per_s / 1e9,
        "link_gb_s": spec.link.bytes_per_s / 1e9,
        "nic_gb_s": spec.nic.bytes_per_s / 1e9,
        "collectives": spec.collectives,
    }
    given = {field: value for field, value in given.items() if value}
    if not spec.like:
        return _from_nothing(name, given)
    like = _find(spec.like, rest)
    origins = {field: origin for field, origin in like.origins.items() if field not in given}
    source = f"fleet.yaml, like {like.name}"
    return msgspec.structs.replace(like, name=name, aliases=[], origins=origins, source=source, **given)


def _from_nothing(name: str, given: dict[str, Any]) -> ChipModel:
    needs = {
        "memory_gib": "memory", "memory_gb_s": "memory_bandwidth", "link_gb_s": "link", "nic_gb_s": "nic",
        "collectives": "collectives",
    }  # fmt: skip
    missing = [field for key, field in needs.items() if key not in given]
    if not {"fp32_tflops", "bf16_tflops"} & set(given):
        missing.insert(0, "bf16_tflops")
    if missing:
        raise InputError(
            f"chip '{name}' lacks {', '.join(missing)}",
            where=f"fleet.yaml, chips.{name}",
            hint="give them, or name a chip of the catalogue that it is like: `like: h100`",
        )
    return ChipModel(name=name, generation=_key(name), source="fleet.yaml", **given)
