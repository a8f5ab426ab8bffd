"""`isthmus check`: are the link and the machine good enough for a run, do both ends mean the same one?"""

import json
import sys
from pathlib import Path

import msgspec
from cyclopts import App
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from isthmus.agent.checks import Checker
from isthmus.chips.names import family_of
from isthmus.errors import CheckFailedError, InputError, NotFoundError
from isthmus.rundir import RunDir
from isthmus.spec.load import load_run
from isthmus.wire import measure
from isthmus.wire.probe import run_facts
from isthmus.wire.transport import ClientTls, parse_address

app = App(name="check", help="Check links, certificates and machines before a run.")

_STAGES = {"delay": "round trips", "up": "bandwidth up", "down": "bandwidth down", "facts": "hashes"}


@app.command
def link(server: str, *, certs: Path, site: str, run: Path | None = None, json_: bool = False) -> None:
    """Measure the link to a running server: bandwidth both ways, delay, jitter, MTU, loss, clocks, hashes.

    Ends with 5 if something stands in the way of a run, and says what to do about it.

    Parameters
    ----------
    server
        host:port of the server.
    certs
        Folder that `isthmus certs init` made, or this site's part of it.
    site
        Which site this machine is.
    run
        The run.yaml, or the folder of a run: its model and data are compared with the server's.
    json_
        Print one JSON object.
    """
    address = parse_address(server)
    tls = ClientTls.load(certs, site)
    expected = _facts(run) if run is not None else {}
    with _progress() as progress:
        task = progress.add_task("connecting", total=len(_STAGES) + 1)

        def begin(stage: str) -> None:
            progress.update(task, advance=1, description=_STAGES[stage])

        report = measure.measure(address, tls, on_stage=begin, burst_s=measure.BURST_S)
        progress.update(task, advance=1)
    problems = measure.find_problems(report, expected)
    report = msgspec.structs.replace(report, problems=problems)
    if json_:
        print(json.dumps(msgspec.to_builtins(report)))
    else:
        for name, value in measure.describe(report):
            print(f"{name:<20} {value}")
    if problems:
        raise CheckFailedError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} found"
            + "".join(f"\n- {p}" for p in problems),
            where=f"link to {server}",
        )


@app.command
def node(
    *, full: bool = False, chip: str = "cpu", count: int = 1, disk: Path = Path(), json_: bool = False
) -> None:
    """Check that this machine is fit to train: chips, memory, disk, and the way between its ranks.

    Ends with 5 if something is not, and names it. The agent makes the same check before a spare node joins
    and before a node that was lost returns.

    Parameters
    ----------
    full
        Take a minute and walk more of the memory; otherwise some seconds.
    chip
        Chip family or model, as the fleet calls it.
    count
        How many of its chips.
    disk
        Folder to write to, on the disk that checkpoints go to.
    json_
        Print one JSON object.
    """
    family_of(chip)
    if count < 1:
        raise InputError(f"there are no {count} chips", where="--count", hint="1 or more")
    if not disk.is_dir():
        raise NotFoundError("there is no such folder", where=f"--disk {disk}", hint="name one to write to")
    figures = Path("~/.cache/isthmus").expanduser() / f"figures-{chip}.json"
    figures.parent.mkdir(parents=True, exist_ok=True)
    report = Checker(chip, count, disk.absolute(), figures).run(full)
    if json_:
        print(msgspec.json.encode(report).decode())
    else:
        for name, value in report.figures.items():
            print(f"{name:<20} {value:.4g}")
    for warning in report.warnings:
        print(f"note: {warning}", file=sys.stderr)
    if not report.ok:
        raise CheckFailedError(
            "this node is not fit to train" + "".join(f"\n- {p.part}: {p.text}" for p in report.problems),
            where="this node",
            hint="take it out of the fleet, or have what is named looked at",
        )


def _facts(run: Path) -> dict[str, str]:
    return run_facts(load_run(RunDir.existing(run).run_yaml if run.is_dir() else run))


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
