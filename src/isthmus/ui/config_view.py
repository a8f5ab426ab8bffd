"""A configuration of another trainer in the terminal, beside the best plan for the same chips."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from isthmus.planner.search.foreign import Comparison, Judged
from isthmus.ui import plan_view, text
from isthmus.units import Count


def shown(found: Comparison) -> RenderableType:
    """What both reach, their stages' memory, and what the best plan would gain."""
    head = (
        f"{Count(found.num_params)} parameters on {found.num_chips} {found.chip}, {found.framework}: "
        f"{found.global_batch:,} sequences of {found.seq_len:,} tokens a step"
    )
    both = [found.config, *([found.best] if found.best else [])]
    parts: list[RenderableType] = [head, "", _figures(both), "", Text("Memory of each stage", style="bold")]
    parts += [_memory(both), "", Text(verdict(found), style="bold")]
    if found.warnings:
        parts += ["", plan_view.notes([], found.warnings)]
    return Group(*parts)


def verdict(found: Comparison) -> str:
    """What the best plan would gain, in a sentence."""
    lacks = max(stage.memory_bytes - stage.memory_limit for stage in found.config.stages)
    short = f"The configuration lacks {text.size(lacks)} on its fullest chips. " if lacks > 0 else ""
    if found.best is None or found.gain is None:
        return f"{short}The search finds no plan that fits this memory."
    if found.gain < 0.005:
        return f"{short}The search finds nothing faster than this configuration."
    return f"{short}The best plan would train {text.percent(found.gain)} more tokens/s."


def _figures(both: Sequence[Judged]) -> Table:
    table = _table(("", "the configuration", "best plan")[: 1 + len(both)])
    degrees = [_degrees(each.name) for each in both]
    for name in dict.fromkeys(key for each in degrees for key in each):
        table.add_row(name, *(each.get(name, text.NONE) for each in degrees))
    rows = (
        ("step", lambda each: text.duration(each.step_s)),
        ("nine of ten from", lambda each: text.duration(each.low_s)),
        ("nine of ten to", lambda each: text.duration(each.high_s)),
        ("tokens/s for each chip", lambda each: text.number(each.tokens_per_s_per_chip)),
        ("MFU", lambda each: text.percent(each.mfu)),
        ("fits the memory", lambda each: "yes" if each.fits else "NO"),
    )
    for name, figure in rows:
        table.add_row(name, *map(figure, both))
    for name in dict.fromkeys(part for each in both for part in each.parts):
        table.add_row(f"  {name}", *(text.duration(each.parts.get(name, 0.0)) for each in both))
    return table


def _degrees(name: str) -> dict[str, str]:
    split = (part.partition(" ") for part in name.split(", "))
    return {key: value or "yes" for key, _, value in split}


def _memory(both: Sequence[Judged]) -> Table:
    """Consecutive stages that are alike share a row."""
    table = _table(("", "stages", "layers", "recompute", "weights", "gradients", "optimizer", "activations",
                    "other", "memory", "of"))  # fmt: skip
    for name, judged in zip(("the configuration", "best plan"), both, strict=False):
        start = 0
        for index, stage in enumerate(judged.stages):
            following = judged.stages[index + 1 : index + 2]
            if following and _same(stage.memory_bytes, following[0].memory_bytes):
                continue
            table.add_row(
                name,
                str(start) if start == index else f"{start}-{index}",
                str(stage.held_layers),
                str(stage.recompute_layers or text.NONE),
                *(text.size(size) for size in stage.memory.values()),
                Text(
                    text.size(stage.memory_bytes), "" if stage.memory_bytes <= stage.memory_limit else "red"
                ),
                text.size(stage.memory_limit),
            )
            name, start = "", index + 1
    return table


def _same(left: int, right: int) -> bool:
    return abs(left - right) <= 0.001 * right


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def chips(rows: Sequence[dict[str, object]]) -> Table:
    """The catalogue; '~' before what is only believed."""
    fields = {
        "fp32": "fp32_tflops", "16-bit": "bf16_tflops", "fp8": "fp8_tflops", "GiB": "memory_gib",
        "memory GB/s": "memory_gb_s", "link GB/s": "link_gb_s", "nic GB/s": "nic_gb_s",
        "per node": "per_node",
    }  # fmt: skip
    table = _table(("chip", *fields))
    for row in rows:
        origins = row["origins"]
        assert isinstance(origins, dict)
        cells = (_cell(row[field], origins.get(field)) for field in fields.values())
        table.add_row(str(row["name"]), *cells)
    return table


def _cell(value: object, origin: object) -> str:
    assert isinstance(value, int | float)
    return f"{'~' if origin == 'believed' else ''}{value:g}" if value else text.NONE
