"""A plan in the terminal: what to expect, how the model lies on the chips, what was considered, and why."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from isthmus.planner.plan import Considered, Expected, PipelinePlan, Plan, SitePlan, StagePlan
from isthmus.ui import text
from isthmus.units import Count

BAR = 30
"""Characters of the longest bar."""
SMALL = 0.005
"""Parts of a step below this share are added up."""
MOST_ROWS = 14
DEGREES = ("tp", "pp", "cp", "ep", "dp", "micro-batch", "recompute", "sharded")
"""Columns of the plans considered, where any of them has one."""
_HEADS = {"micro-batch": "micro-\nbatch", "recompute": "recom-\npute"}


def shown(plan: Plan) -> RenderableType:
    """Expectation, where the time goes, the sites' layouts, the plans considered, the reasons."""
    parts: list[RenderableType] = [summary(plan), ""]
    if plan.expected:
        parts += [_expectation(plan, plan.expected), *_titled("Where each second of the step goes")]
        parts += [step_parts(plan.expected)]
    parts += [*_titled("How the model lies on the chips"), stages(plan)]
    if plan.considered:
        parts += [*_titled("Plans considered"), considered(plan)]
    if plan.untried:
        parts += ["", Text(f"not tried: {'; '.join(plan.untried)}", style="dim")]
    return Group(*parts, *_titled("Reasons"), notes(plan.reasons, plan.warnings))


def _titled(title: str) -> list[RenderableType]:
    return ["", Text(title, style="bold")]


def summary(plan: Plan) -> str:
    """The model and the chips in a line."""
    sites = f"{len(plan.sites)} site{'s' * (len(plan.sites) != 1)}"
    active = ""
    if plan.active_params != plan.num_params:
        active = f", {Count(plan.active_params)} active for each token"
    chips = f"{plan.num_ranks} chip{'s' * (plan.num_ranks != 1)}"
    return f"{Count(plan.num_params)} parameters{active}, on {chips} of {sites}"


def facts(plan: Plan, expected: Expected) -> list[tuple[str, str, str]]:
    """(what, figure, what to know about it) of the expectation."""
    sites = " at each site, averaged over the sites" if len(plan.sites) > 1 else ""
    gap = f"this one is at most {text.percent(expected.gap)} from that"
    rows = [
        ("step", text.duration(expected.step_s), f"for {plan.batch_size:,} sequences{sites}"),
        ("", text.duration(expected.low_s), "in nine of ten such runs at least"),
        ("", text.duration(expected.high_s), "in nine of ten such runs at most"),
        ("", text.duration(expected.simulated_s), "with the pipelines played event by event"),
        (
            "",
            text.duration(expected.bound_s),
            f"no plan takes less; {gap if expected.gap > 0.0005 else 'this one is the best'}",
        ),
        (
            "tokens/s",
            text.number(expected.tokens_per_s),
            f"{text.number(expected.tokens_per_s / plan.num_ranks)} for each chip",
        ),
    ]
    seconds = budget_s(plan, expected)
    if seconds:
        cost = f", costs {text.number(expected.price * seconds / 3600)}" if expected.price else ""
        rows.append(("budget", text.duration(seconds), f"for {Count(tokens(plan))} tokens{cost}"))
    rows.append(
        (
            "outer loop",
            f"H {plan.inner_steps}",
            f"{plan.codec} up, {plan.down_codec} down, in {plan.fragments} fragments",
        )
    )
    return rows


def tokens(plan: Plan) -> int:
    """Of the whole budget; 0 where the plan does not say how long a sequence is."""
    layouts = [pipeline.layout for site in plan.sites for pipeline in site.pipelines]
    return plan.total_samples * layouts[0].seq_len if layouts else 0


def budget_s(plan: Plan, expected: Expected) -> float:
    """Seconds to the end of the budget; 0: not known."""
    return tokens(plan) / expected.tokens_per_s if expected.tokens_per_s else 0.0


def _expectation(plan: Plan, expected: Expected) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in facts(plan, expected):
        table.add_row(*row)
    return table


def parts_of(expected: Expected) -> list[tuple[str, float]]:
    """(part, seconds), the longest first, the small ones added up."""
    rows = sorted(expected.parts.items(), key=lambda item: -item[1])
    large = [(name, seconds) for name, seconds in rows if seconds >= SMALL * expected.step_s]
    rest = expected.step_s - sum(seconds for _, seconds in large)
    return [*large, ("other", rest)] if rest > 1e-6 * expected.step_s else large


def step_parts(expected: Expected) -> Table:
    table = _table(("part", "seconds", "share", ""), left=("part", ""))
    rows = parts_of(expected)
    longest = max(seconds for _, seconds in rows)
    for name, seconds in rows:
        bar = "█" * max(1, round(BAR * seconds / longest))
        table.add_row(name, f"{seconds:.3g}", text.percent(seconds / expected.step_s), Text(bar, "cyan"))
    return table


def stages(plan: Plan) -> Table:
    """Consecutive stages that are alike share a row."""
    columns = (
        "site", "chips", "stages", "tp", "replicas", "micro-batches", "layers", "recompute", "memory",
        "of", "step",
    )  # fmt: skip
    table = _table(columns, left=("site", "chips"))
    for site in plan.sites:
        step = text.duration(site.step_s) if site.step_s else ""
        rows = [row for pipeline in site.pipelines for row in _runs_of_stages(pipeline)] or [_whole(site)]
        for row in rows:
            table.add_row(*row, step)
            step = ""
    return table


def _whole(site: SitePlan) -> tuple[str, ...]:
    """Each rank has the whole model."""
    chips = ", ".join(f"{count} {chip}" for chip, count in Counter(site.chips).items())
    batches = f"{site.accumulation} x {site.micro_batch}"
    none = text.NONE
    return (site.name, chips, "0", "1", str(site.num_ranks), batches, "all", none, none, none)


def _runs_of_stages(pipeline: PipelinePlan) -> Iterator[tuple[str, ...]]:
    layout = pipeline.layout
    start = 0
    for index, stage in enumerate(pipeline.stages):
        following = pipeline.stages[index + 1 : index + 2]
        if following and alike(stage, following[0]):
            continue
        held = pipeline.stages[start : index + 1]
        count = len(held) * stage.tp * layout.cp * layout.dp
        yield (
            stage.site,
            f"{count} {stage.chip}",
            f"{start}" if start == index else f"{start}-{index}",
            str(stage.tp),
            str(layout.dp),
            f"{layout.micro_batches} x {layout.micro_batch}",
            str(stage.held_layers),
            str(stage.recompute_layers) if stage.recompute_layers else text.NONE,
            text.size(max(each.memory_bytes for each in held)),
            text.size(stage.memory_limit),
        )
        start = index + 1


def alike(left: StagePlan, right: StagePlan) -> bool:
    def key(stage: StagePlan) -> tuple[object, ...]:
        return stage.site, stage.chip, stage.tp, stage.held_layers, stage.recompute_layers

    return key(left) == key(right)


def degrees(rows: Sequence[Considered]) -> tuple[list[str], list[list[str]]]:
    """The names of plans as columns: which there are, and their cells, row by row."""
    parsed = [_parsed(row.name) for row in rows]
    used = [name for name in DEGREES if any(name in each for each in parsed)]
    return used, [[each.get(name, "") for name in used] for each in parsed]


def _parsed(name: str) -> dict[str, str]:
    """'tp 2, dp 8, selective, recompute 3, sharded' -> {'tp': '2', 'dp': '8', 'recompute': 'core+3', ...}"""
    found: dict[str, str] = {}
    for part in name.split(", "):
        key, _, value = part.partition(" ")
        found[key] = value or "yes"
    core = found.pop("selective", "") and "core"
    again = "+".join(filter(None, (core, found.get("recompute", ""))))
    return found | {"recompute": again} if again else found


def share_of_batch(row: Considered, batch: int) -> str:
    return "" if row.sequences is None else f"{100 * row.sequences / batch:.0f} %"


def slower(row: Considered) -> str:
    return "" if row.slower is None or row.chosen else f"{100 * row.slower:+.1f} %"


def _foremost(rows: Sequence[Considered]) -> list[Considered]:
    """All that are chosen, then the first of each place, the second, and so on, in the order of `rows`."""
    ranks: Counter[str] = Counter()
    order: list[tuple[bool, int, int]] = []
    for index, row in enumerate(rows):
        ranks[row.place] += not row.chosen
        order.append((not row.chosen, ranks[row.place], index))
    most = max(MOST_ROWS, sum(row.chosen for row in rows))
    return [rows[index] for index in sorted(index for _, _, index in sorted(order)[:most])]


def considered(plan: Plan) -> Table:
    """Place by place, the chosen plan first."""
    rows = _foremost(plan.considered)
    used, cells = degrees(rows)
    shared = any(row.sequences and row.sequences < 0.995 * plan.batch_size for row in rows)
    placed = any(row.place for row in rows)
    columns = [*["chips"] * placed, *(_HEADS.get(name, name) for name in used), *["of\nbatch"] * shared]
    table = _table([*columns, "step", "slower", "why"], left=("chips", "why"), wraps=("chips", "why"))
    before = ""
    for row, degree in zip(rows, cells, strict=True):
        step = text.duration(row.step_s) if row.step_s is not None else text.NONE
        why = Text("CHOSEN", style="bold green") if row.chosen else row.why
        share = [share_of_batch(row, plan.batch_size)] * shared
        place = [row.place if row.place != before else ""] * placed
        table.add_row(*place, *degree, *share, step, slower(row), why)
        before = row.place
    return table


def notes(reasons: Sequence[str], warnings: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in reasons:
        table.add_row("-", line)
    for line in warnings:
        table.add_row(Text("!", style="yellow"), Text(f"warning: {line}", style="yellow"))
    return table


def _table(columns: Sequence[str], left: Sequence[str], wraps: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in left else "right",
            no_wrap=name not in wraps,
            vertical="top",
        )
    return table
