"""`isthmus probe`. The measuring is done by child processes, one for each rank."""

import sys
from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from isthmus.agent.probe import Wanted, run_probe
from isthmus.planner.probed.profile import BlockTime, Profile
from isthmus.spec.load import load_run
from isthmus.ui import plans, tables, text


def probe(  # noqa: PLR0913 (one for each option)
    *,
    run: Path | None = None,
    ranks: int = 1,
    chip: str = "cpu",
    out: Path | None = None,
    quick: bool = False,
    random_rows: bool = False,
    json_: bool = False,
) -> None:
    """Measure this machine: matrix products, memory, collectives, and the blocks of a run's model.

    Takes half a minute. Close other work first: what it takes from the machine is taken for the
    machine's speed. docs/probe.md says what is measured and how it is used.

    Parameters
    ----------
    run
        The run.yaml whose model's blocks are timed, in its precision, with its data.
    ranks
        Ranks of this machine that train at once, as the fleet has them: one for each chip.
    chip
        Chip family or model, as the fleet calls it.
    out
        File to write the profile to.
    quick
        A look in a few seconds; too short to plan by.
    random_rows
        Time the blocks with random tokens, without reading the run's data.
    json_
        Print the profile as one JSON object.
    """
    spec = load_run(run, []) if run else None
    wanted = Wanted(chip, ranks, spec, quick, random_rows)
    if spec and not random_rows:
        from isthmus.ui.runner import prepare_data

        prepare_data(spec)
    profile = _measure(wanted)
    plans.save(out, profile)
    if json_:
        print(msgspec.json.encode(profile).decode())
        return
    tables.console().print(shown(profile))


def _measure(wanted: Wanted) -> Profile:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    console = tables.console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("start", total=1.0)
        return run_probe(wanted, lambda part, what: bar.update(task, completed=part, description=what))


def shown(profile: Profile) -> RenderableType:
    """The profile as tables."""
    threads = f", {profile.threads} threads each" if profile.threads else ""
    machine = Table(title=f"{profile.device}; {profile.ranks} ranks at once{threads}", title_justify="left")
    for name in ("what", "size", "rate", "spread"):
        machine.add_column(name, justify="left" if name == "what" else "right")
    machine.add_row("memory, of one rank", "", f"{text.number(profile.memory_gb_s)} GB/s", "")
    for each in profile.matmuls:
        size = f"{each.rows} x {each.inner} x {each.columns}"
        rate = f"{text.number(each.tflops * 1e12)}FLOP/s"
        machine.add_row(f"product, {each.precision}", size, rate, text.percent(each.spread))
    for each in profile.collectives:
        kind = f"{each.kind.replace('_', '-')}, {each.ranks} ranks"
        machine.add_row(kind, text.duration(each.latency_s), f"{text.number(each.gb_s)} GB/s", "")
    if not profile.blocks:
        return machine
    return Group(machine, _blocks(profile.blocks))


def _blocks(blocks: list[BlockTime]) -> Table:
    table = Table()
    for name in ("block", "tokens", "forward", "backward", "kept", "spread"):
        table.add_column(name, justify="left" if name == "block" else "right")
    for each in blocks:
        table.add_row(
            f"{each.block}, {each.precision}" if each.tokens else each.block,
            str(each.tokens or ""),
            text.duration(each.forward_s),
            text.duration(each.backward_s) if each.tokens else "",
            text.size(each.activation_bytes) if each.tokens else "",
            text.percent(each.spread),
        )
    return table
