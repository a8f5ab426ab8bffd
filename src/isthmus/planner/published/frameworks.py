"""Training systems that published rows come from, and what they do unless a row says otherwise.

Systems of one family share much of their code, so what is learned of one says something of the others.
"""

import re
from typing import Literal

import msgspec

from isthmus.planner.belief.query import Groups
from isthmus.planner.chips.chip import ChipModel
from isthmus.planner.layout import Precision

Family = Literal["megatron", "fsdp", "other"]


class Framework(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    family: Family
    fused_attention: bool = True
    """Flash attention, or the vendor's."""
    sharding: Literal[0, 1, 2, 3] = 1
    precision: Precision = "bf16"
    causal_flops: bool = False
    """Its TFLOPS count attention over what is not masked alone."""
    flash: Literal[1, 2, 3] = 3
    """Generation of its fused attention kernel: FlashAttention 1 or 2, or one written for the chip."""
    eager: bool = False
    """Element-wise work is not fused."""
    interleaved: bool = False
    """Its pipelines have a chunk for each layer of a stage, unless a row says otherwise."""
    balanced_context: bool = True
    """Context-parallel ranks share the causal triangle evenly."""
    nic_gb_s: float = 0.0
    """Of one chip, where its reports state it for all of their runs; 0: the chip's."""
    release: str = ""
    """As the row's source names it."""


KNOWN: list[tuple[str, Framework]] = [
    (r"megatron-bridge", Framework(name="megatron-bridge", family="megatron", causal_flops=True)),
    (
        r"cases_april2021|sc21|megatron-lm readme 2021|2104\.04473",
        Framework(name="megatron-lm 2021", family="megatron", fused_attention=False, sharding=0),
    ),
    (
        r"korthikanti|2205\.05198",
        Framework(name="megatron-lm 2022", family="megatron", fused_attention=False, sharding=0),
    ),
    (r"megascale", Framework(name="megascale", family="megatron")),
    (r"nemo", Framework(name="nemo", family="megatron")),
    (r"skywork", Framework(name="skywork", family="megatron")),
    (r"modellink|mindspeed", Framework(name="modellink", family="megatron")),
    (r"mindformers|mindspore", Framework(name="mindformers", family="other")),
    (r"pangu", Framework(name="mindformers", family="other")),
    (r"flagperf.*deepspeed", Framework(name="deepspeed", family="other", eager=True, flash=2)),
    (r"flagperf|flagscale", Framework(name="flagscale", family="megatron")),
    (r"megatron", Framework(name="megatron-lm", family="megatron")),
    (r"llm-foundry|mosaicml|mpt", Framework(name="llm-foundry", family="fsdp", sharding=3, flash=1)),
    (r"torchtitan", Framework(name="torchtitan", family="fsdp", sharding=3, flash=2, balanced_context=False)),
    (r"fms-fsdp|fms_fsdp", Framework(name="fms-fsdp", family="fsdp", sharding=3, flash=2)),
    (r"internevo|internlm", Framework(name="internevo", family="other", nic_gb_s=6.25)),
    (
        r"sailor",
        Framework(
            name="sailor", family="megatron", fused_attention=False, sharding=0, precision="fp32", eager=True
        ),
    ),
    (
        r"llama-3|llama 3|2407\.21783",
        Framework(name="llama-3", family="megatron", sharding=2, interleaved=True),
    ),
    (r"deepspeed", Framework(name="deepspeed", family="other", eager=True, flash=2)),
]
"""Searched in a row's source and path, in this order."""
_RELEASE = re.compile(r"\b(\d\d\.\d\d(?:\.\d\d)?)\b")


def find_framework(source: str, path: str = "", notes: str = "") -> Framework:
    """By what the source is called; one that is not known is a framework of its own. A source that compares
    itself with Megatron-LM says in the notes which rows are that's."""
    said = f"{source} {path}".lower()
    if "megascale" in said and "megatron" in notes.lower():
        said = "megatron-lm"
    for pattern, framework in KNOWN:
        if re.search(pattern, said):
            release = _RELEASE.search(source)
            return msgspec.structs.replace(framework, release=release.group(1) if release else "")
    return Framework(name=source.lower(), family="other")


def groups_of(framework: Framework, chip: ChipModel, recipe: str) -> Groups:
    """What a run of this system on this chip shares with others. `recipe`: its precision, as it is called."""
    return Groups(
        framework=framework.name,
        family=framework.family,
        release=framework.release,
        generation=chip.generation,
        chip=chip.name,
        recipe=recipe,
    )
