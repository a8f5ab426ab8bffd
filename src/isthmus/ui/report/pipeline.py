"""A pipeline as a picture: what each stage does in a step, and what fills its memory."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from isthmus.planner.schedule import KINDS, Timeline
from isthmus.ui import text
from isthmus.ui.report import html
from isthmus.ui.report.svg import Axis, Bar, Mark, lane_chart

MOST_IN_LANE, MOST_OPERATIONS = 240, 6000
"""More than these are not drawn: the picture ends where they do, and its title says so."""
LONGEST_NAME = 26
"""Characters that fit beside a lane."""
TINTS = {"forward": "var(--s0)", "backward": "var(--s2)", "recompute": "var(--s1)", "weight": "var(--s3)"}
MEMORY_TINTS = {
    "weights": "var(--s0)",
    "gradients": "var(--s3)",
    "optimizer": "var(--s1)",
    "activations": "var(--s2)",
    "other": "var(--s7)",
}
_WORDS = {"weight": "gradient of the weights"}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a stage does for one micro-batch."""

    stage: int
    kind: str
    """'forward', 'backward', 'recompute' or 'weight' (the gradient of the weights by itself)."""
    start_s: float
    end_s: float
    micro_batch: int
    chunk: int = 0


class StageMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What fills one chip of a stage at its peak."""

    parts: Mapping[str, float]
    """Bytes by what they hold: 'weights', 'gradients', 'optimizer', 'activations'; all else is 'other'."""
    limit: float
    """What may be used."""


def operations(line: Timeline) -> list[Operation]:
    """A simulated step's, for the picture."""
    columns = (line.stage_N, line.kind_N, line.chunk_N, line.micro_batch_N, line.start_N, line.end_N)
    return [
        Operation(stage=stage, kind=KINDS[kind], start_s=start, end_s=end, micro_batch=batch, chunk=chunk)
        for stage, kind, chunk, batch, start, end in zip(*(each.tolist() for each in columns), strict=True)
    ]


def step(stages: Sequence[str], done: Sequence[Operation]) -> str:
    """A lane for each stage, coloured by what it does. `stages`: their names, such as their chips."""
    span = max((each.end_s for each in done), default=0.0)
    lanes = [[each for each in done if each.stage == lane] for lane in range(len(stages))]
    until = min([span, *(_crowded(lane, len(stages)) for lane in lanes)])
    chunked = any(each.chunk for each in done)
    bars = [_idle(name, i, (span, until), lanes[i]) for i, name in enumerate(stages)]
    bars += [
        Bar(start=each.start_s, end=each.end_s, lane=each.stage, kind=each.kind, title=_told(each, chunked))
        for each in done
        if each.start_s < until
    ]
    title = f"One step: {text.duration(span)}"
    if until < span:
        title += f", of which the first {text.duration(until)} are shown"
    seen = {each.kind for each in done}
    key = [(_WORDS.get(kind, kind), tint) for kind, tint in TINTS.items() if kind in seen]
    chart = lane_chart(_names(stages), bars, [], Axis(show=text.duration, low=0.0, high=until), exact=True)
    return html.figure(title, f'<div class="scroll">{chart}</div>', [*key, ("idle", "var(--grid)")])


def memory(stages: Sequence[str], held: Sequence[StageMemory]) -> str:
    """A bar for each stage, stacked from what fills its chips, with a mark at what may be used."""
    most = max((max(each.limit, sum(each.parts.values())) for each in held), default=1.0)
    bars: list[Bar] = []
    for lane, (name, stage) in enumerate(zip(stages, held, strict=True)):
        bars += _stacked(name, lane, stage)
    marks = [
        Mark(lane=lane, at=stage.limit, kind="limit", title=f"{name}: {text.size(stage.limit)} may be used")
        for lane, (name, stage) in enumerate(zip(stages, held, strict=True))
    ]
    kinds = {bar.kind for bar in bars}
    key = [(kind, tint) for kind, tint in MEMORY_TINTS.items() if kind in kinds]
    axis = Axis(show=_axis_size, low=0.0, high=most)
    chart = lane_chart(_names(stages), bars, marks, axis, exact=True)
    return html.figure(
        "Memory of each chip, by stage",
        f'<div class="scroll">{chart}</div>',
        [*key, ("limit", "var(--bad)")],
    )


def _crowded(lane: Sequence[Operation], num_lanes: int) -> float:
    """When more has begun on a stage than its lane can show; infinite: never."""
    starts = sorted(each.start_s for each in lane)
    most = min(MOST_IN_LANE, max(1, MOST_OPERATIONS // num_lanes))
    return starts[most] if len(starts) > most else math.inf


def _axis_size(num_bytes: float) -> str:
    shown = text.tick(num_bytes)
    return f"{shown.rstrip('TGMk')} {shown.lstrip('-0123456789.')}B"


def _names(stages: Sequence[str]) -> list[str]:
    """Stage number and name, cut to the room beside a lane."""
    full = [f"{stage} {name}".rstrip() for stage, name in enumerate(stages)]
    return [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in full]


def _idle(name: str, lane: int, times: tuple[float, float], done: Sequence[Operation]) -> Bar:
    """The lane's ground, as long as the picture; the share is of the whole step."""
    span, until = times
    busy = sum(each.end_s - each.start_s for each in done)
    share = max(0.0, 1 - busy / span) if span else 0.0
    return Bar(start=0.0, end=until, lane=lane, kind="idle", title=f"{name}: idle {text.percent(share)}")


def _told(each: Operation, chunked: bool) -> str:
    chunk = f", chunk {each.chunk}" if chunked else ""
    return (
        f"{_WORDS.get(each.kind, each.kind)}, micro-batch {each.micro_batch}{chunk}: "
        f"{text.duration(each.end_s - each.start_s)} from {text.duration(each.start_s)}"
    )


def _stacked(name: str, lane: int, stage: StageMemory) -> list[Bar]:
    """Its parts side by side, in the order of the legend."""
    total = sum(stage.parts.values())
    known = {kind: stage.parts.get(kind, 0.0) for kind in MEMORY_TINTS}
    known["other"] = total - sum(size for kind, size in known.items() if kind != "other")
    bars: list[Bar] = []
    at = 0.0
    for kind, size in known.items():
        if size > 0:
            told = f"{name}: {kind} {text.size(size)} of {text.size(total)}"
            bars.append(Bar(start=at, end=at + size, lane=lane, kind=kind, title=told))
            at += size
    return bars
