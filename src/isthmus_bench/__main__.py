"""`python -m isthmus_bench NAME [--quick | --soak] [--json]`: run one benchmark and print its document."""

import argparse
import importlib
import json
import sys

from isthmus.errors import IsthmusError
from isthmus_bench.document import Result, document
from isthmus_bench.targets import target_of

NAMES = ("outer", "moe", "balance", "upcycle", "loader", "transport", "sim", "planner", "faults")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m isthmus_bench")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it works, proves nothing"
    )
    parser.add_argument("--soak", action="store_true", help="the long ones instead; only `faults` has any")
    parser.add_argument("--json", action="store_true", help="print the document as JSON")
    arguments = parser.parse_args(argv)
    if arguments.soak and arguments.name != "faults":
        parser.error("only `faults` has a --soak")
    try:
        bench = importlib.import_module(f"isthmus_bench.{arguments.name}")
        results: list[Result] = (bench.soak if arguments.soak else bench.run)(arguments.quick)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(json.dumps(document(results)))
    else:
        show(results)
    return 0


def show(results: list[Result]) -> None:
    """A table for people: value beside target and peers, what is behind it below."""
    from rich.console import Console
    from rich.table import Table

    facts = document(results)["machine"]
    table = Table(title=", ".join(f"{name} {value}" for name, value in facts.items()), title_justify="left")
    table.add_column("id", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("target", no_wrap=True)
    table.add_column("peers, note")
    for result in results:
        table.add_row(result.id, number(result.value), result.unit, judged(result), beside(result))
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def judged(result: Result) -> str:
    target = target_of(result.id)
    if target is None:
        return ""
    return f"{target}, {'met' if target.met(result.value) else 'MISSED'}"


def beside(result: Result) -> str:
    lines = [f"{name}: {number(value)}" for name, value in result.peers.items()]
    return "\n".join([*lines, result.note] if result.note else lines)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
