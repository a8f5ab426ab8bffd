"""`isthmus check`: is the link good enough for a run, and do both ends mean the same run?"""

import json
from pathlib import Path

import msgspec
from cyclopts import App
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from isthmus.errors import CheckFailedError
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


def _facts(run: Path) -> dict[str, str]:
    return run_facts(load_run(RunDir.existing(run).run_yaml if run.is_dir() else run))


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
