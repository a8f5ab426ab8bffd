"""A plan as one HTML page that needs nothing else: no script, no network, light and dark."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files

from isthmus.planner.plan import Considered, Expected, PipelinePlan, Plan, SitePlan, StagePlan
from isthmus.planner.schedule import Pipeline, simulate
from isthmus.ui import plan_view, text
from isthmus.ui.report import html, pipeline
from isthmus.ui.report.pipeline import StageMemory
from isthmus.units import Count

MOST_PIPELINES = 6
"""Drawn for each site."""


def render(plan: Plan, documents: Mapping[str, str] | None = None) -> str:
    """The page. `documents`: texts to show at its end by name, such as the run's YAML."""
    sections = [_header(plan), _cards(plan)]
    if plan.expected:
        sections += ["<h2>Where each second of the step goes</h2>", _parts(plan.expected)]
    if plan.considered:
        sections += ["<h2>Plans considered</h2>", _considered(plan), _untried(plan)]
    for site in plan.sites:
        sections += [f"<h2>Site {escape(site.name)}</h2>", f'<div class="lines">{"".join(_site(site))}</div>']
    sections += ["<h2>Reasons</h2>", _list(plan.reasons)]
    if plan.warnings:
        sections += ["<h2>Warnings</h2>", _list(plan.warnings)]
    if documents:
        shown = (html.details(name, content) for name, content in documents.items())
        sections += ["<h2>Documents</h2>", *shown]
    style = files(__package__ or "").joinpath("page.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>plan: {escape(plan_view.summary(plan))}</title><style>{style}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(plan: Plan) -> str:
    return f'<header><h1>Plan</h1></header><p class="facts">{escape(plan_view.summary(plan))}</p>'


def _cards(plan: Plan) -> str:
    loop = html.card(
        "inner steps per push", str(plan.inner_steps), f"{plan.codec} up, {plan.down_codec} down"
    )
    if plan.expected is None:
        return f'<div class="cards">{loop}</div>'
    expected = plan.expected
    low, high = text.duration(expected.low_s), text.duration(expected.high_s)
    seconds = plan_view.budget_s(plan, expected)
    cost = f", costs {text.number(expected.price * seconds / 3600)}" if expected.price else ""
    cards = [
        html.card("step", text.duration(expected.step_s), f"nine of ten: {low} to {high}", hero=True),
        html.card(
            "tokens/s",
            text.number(expected.tokens_per_s),
            f"{text.number(expected.tokens_per_s / plan.num_ranks)} for each chip",
        ),
        html.card(
            "lower bound",
            text.duration(expected.bound_s),
            f"at most {text.percent(expected.gap)} from the best plan" if expected.gap > 0.0005
            else "no plan is faster",
        ),
        html.card(
            "event by event", text.duration(expected.simulated_s), "the step with its pipelines played"
        ),
        *[html.card("budget", text.duration(seconds), f"{Count(plan_view.tokens(plan))} tokens{cost}")]
        * (seconds > 0),
        loop,
    ]  # fmt: skip
    return f'<div class="cards">{"".join(cards)}</div>'


def _parts(expected: Expected) -> str:
    """One bar of the whole step, and its figures; a tint for each part."""
    rows = plan_view.parts_of(expected)
    tints = [html.colour(index) for index in range(len(rows))]
    bar = "".join(
        f'<div style="flex:{seconds:.6g};background:{tint};opacity:{_opacity(index)}" '
        f'title="{escape(f"{name}: {text.duration(seconds)}")}"></div>'
        for index, ((name, seconds), tint) in enumerate(zip(rows, tints, strict=True))
    )
    body = "".join(
        f'<tr><th><span class="swatch" style="background:{tint};opacity:{_opacity(index)}"></span>'
        f"{escape(name)}</th><td>{text.duration(seconds)}</td>"
        f"<td>{text.percent(seconds / expected.step_s)}</td></tr>"
        for index, ((name, seconds), tint) in enumerate(zip(rows, tints, strict=True))
    )
    return (
        f'<div class="panel"><div class="stack">{bar}</div><div class="scroll"><table><thead><tr>'
        f"<th>part</th><th>of a step</th><th>share</th></tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _opacity(index: int) -> float:
    """There are more parts than tints: the second round is paler."""
    return 1.0 if index < html.COLOURS else 0.5


def _considered(plan: Plan) -> str:
    """As in the terminal, with the chosen rows marked."""
    used, cells = plan_view.degrees(plan.considered)
    shared = any(row.sequences and row.sequences < 0.995 * plan.batch_size for row in plan.considered)
    head = ["chips", *used, *["of the batch"] * shared, "step", "slower", "why"]
    rows: list[str] = []
    before = ""
    for row, degree in zip(plan.considered, cells, strict=True):
        share = [plan_view.share_of_batch(row, plan.batch_size)] * shared
        figures = [*degree, *share, _step(row), plan_view.slower(row)]
        place = row.place if row.place != before else ""
        kind = ' class="total"' if row.chosen else ""
        rows.append(
            f"<tr{kind}><th>{escape(place)}</th>"
            + "".join(f"<td>{escape(figure)}</td>" for figure in figures)
            + f'<td class="text">{"CHOSEN" if row.chosen else escape(row.why)}</td></tr>'
        )
        before = row.place
    names = "".join(f"<th>{escape(name)}</th>" for name in head[:-1]) + f'<th class="text">{head[-1]}</th>'
    return (
        f'<div class="panel scroll plans"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">A plan competes with those for the same chips: slower is more seconds for each '
        "sequence than the chosen one, or, for chips left idle, how much longer a step takes with them.</p>"
    )


def _step(row: Considered) -> str:
    return text.duration(row.step_s)


def _untried(plan: Plan) -> str:
    if not plan.untried:
        return ""
    return f'<p class="note">Not tried: {escape("; ".join(plan.untried))}.</p>'


def _site(site: SitePlan) -> Iterator[str]:
    facts = [
        f"{site.num_ranks} chip{'s' * (site.num_ranks != 1)}",
        f"{text.percent(site.share)} of the run's tokens",
        f"{text.size(site.bytes_up)} up and {text.size(site.bytes_down)} down for each push "
        f"in {text.duration(site.transfer_s)}",
    ]
    if site.step_s:
        facts.insert(1, f"a step takes {text.duration(site.step_s)}")
    yield f'<p class="facts">{escape(" · ".join(facts))}</p>'
    for number, each in enumerate(site.pipelines[:MOST_PIPELINES]):
        if len(site.pipelines) > 1:
            yield f"<h3>Pipeline {number + 1} of {len(site.pipelines)}</h3>"
        yield from _pipeline(each)
    if len(site.pipelines) > MOST_PIPELINES:
        yield f'<p class="note">{len(site.pipelines) - MOST_PIPELINES} more are not drawn.</p>'


def _pipeline(planned: PipelinePlan) -> Iterator[str]:
    """Its layout in words, its step played, its memory, and what each stage holds."""
    names = [stage.chip for stage in planned.stages]
    yield f'<p class="note">{escape(_layout(planned))}</p>'
    if all(stage.forward_s > 0 for stage in planned.stages):
        yield pipeline.step(names, pipeline.operations(simulate(_played(planned))))
    held = [
        StageMemory(parts=stage.memory or {"other": stage.memory_bytes}, limit=stage.memory_limit)
        for stage in planned.stages
    ]
    yield pipeline.memory(names, held)
    head = ["stage", "chip", "tp", "layers", "holds", "recompute", "forward", "backward", "memory", "of"]
    rows = [_stage(index, stage) for index, stage in enumerate(planned.stages)]
    yield f'<div class="panel">{html.table(head, rows, text_columns=(1, 4))}</div>'


def _layout(planned: PipelinePlan) -> str:
    layout = planned.layout
    degrees = {"tp": layout.tp, "cp": layout.cp, "ep": layout.ep, "pp": layout.pp, "dp": layout.dp}
    said = ", ".join(f"{name} {degree}" for name, degree in degrees.items())
    return (
        f"{said}; {layout.micro_batches} micro-batches of {layout.micro_batch} sequences of "
        f"{layout.seq_len:,} tokens on each replica; {layout.precision}"
    )


def _played(planned: PipelinePlan) -> Pipeline:
    virtual, stages = planned.layout.virtual, planned.stages
    interleaved = virtual > 1 and planned.layout.micro_batches % len(stages) == 0
    chunks = virtual if interleaved else 1
    return Pipeline(
        forward_SV=[[stage.forward_s / chunks] * chunks for stage in stages],
        backward_SV=[[(stage.backward_s - stage.recompute_s) / chunks] * chunks for stage in stages],
        recompute_SV=[[stage.recompute_s / chunks] * chunks for stage in stages],
        micro_batches=planned.layout.micro_batches,
        schedule="interleaved" if interleaved else "1f1b",
    )


def _stage(index: int, stage: StagePlan) -> list[str]:
    parts = stage.chunks or [(stage.first_layer, stage.end_layer)]
    ends = ["embedding"] * stage.embedding
    ends += [f"layers {first}-{end - 1}" for first, end in parts if end > first]
    return [
        str(index),
        stage.chip,
        str(stage.tp),
        str(stage.held_layers),
        ", ".join([*ends, *["head and loss"] * stage.head]),
        str(stage.recompute_layers or text.NONE),
        text.duration(stage.forward_s),
        text.duration(stage.backward_s),
        text.size(stage.memory_bytes),
        text.size(stage.memory_limit),
    ]


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
