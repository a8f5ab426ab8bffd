"""docs/cli.md, made from the commands themselves. `python -m isthmus.ui.reference` writes it anew."""

import io
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from rich.console import Console

from isthmus.ui.cli import build_app
from isthmus.ui.cli.verbs import VERBS

WIDTH = 100
PAGE = "docs/cli.md"

HEAD = """# Commands

Made from the commands themselves by `python -m isthmus.ui.reference`; a test fails when it is stale.

stdout is data, stderr is messages. Commands that read take `--json`; with it, errors are one JSON object on
stderr: `{"error": {"type", "message", "where", "hint", "exit_code"}}`. `ISTHMUS_DEBUG=1` adds the traceback.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | bad input: a file, option or value is wrong |
| 3 | not found: no such run, file or site |
| 4 | unreachable, or refused (certificate, token, clock) |
| 5 | a check found problems |
| 6 | no plan fits the fleet |
| 7 | finished, but not in full |
| 130 | interrupted |
"""


def reference() -> str:
    """The page, with the help of every command."""
    app = build_app(run="*")
    parts = [HEAD, _help(build_app(), [])]
    for verb in VERBS:
        parts.append(f"## isthmus {verb.name}\n")
        parts.append(_help(app, [verb.name]))
        for words in _subcommands(app[verb.name], [verb.name]):
            parts.append(f"### isthmus {' '.join(words)}\n")
            parts.append(_help(app, words))
    return "\n".join(parts)


def _subcommands(app: App, path: list[str]) -> Iterator[list[str]]:
    for name in app:
        if not name.startswith("-"):
            yield [*path, name]
            yield from _subcommands(app[name], [*path, name])


def _help(app: App, words: list[str]) -> str:
    out = Console(width=WIDTH, file=io.StringIO(), color_system=None)
    app([*words, "--help"], console=out, result_action="return_value")
    assert isinstance(out.file, io.StringIO)
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]
    return "```\n" + "\n".join(lines).strip() + "\n```\n"


if __name__ == "__main__":
    Path(PAGE).write_text(reference())
