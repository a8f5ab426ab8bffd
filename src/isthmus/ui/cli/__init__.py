"""The `isthmus` command. stdout is data, stderr is messages; exit codes are those of `isthmus.errors`."""

import json
import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from isthmus import __version__
from isthmus.errors import IsthmusError
from isthmus.ui.cli.verbs import KEEP, MEASURE, READ, SET_UP, TRAIN, VERBS

INTERRUPTED = 130


def build_app(run: str | None = None) -> App:
    """The command tree. No verb is imported before it is named; the one in `run` shows its own docstring.

    `run="*"` does so for all of them, for the reference in docs/cli.md.
    """
    app = App(
        name="isthmus",
        help="Train one language model over all the compute you can reach.",
        version=__version__,
        version_flags=["--version"],
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative="", show_default=_default),
    )
    app["--help"].group = app["--version"].group = Group("Options", sort_key=9)
    groups = {name: Group(name, sort_key=i) for i, name in enumerate((TRAIN, READ, SET_UP, KEEP, MEASURE))}
    for verb in VERBS:
        summary = None if run in (verb.name, "*") else verb.summary
        app.command(f"isthmus.ui.cli.{verb.target}", name=verb.name, help=summary, group=groups[verb.group])
    return app


def _default(value: object) -> str | None:
    """How help shows a default: nothing for none, for a switch that is off and for a text that is empty."""
    return None if value is None or value is False or value == "" else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code. Shows a traceback only where ISTHMUS_DEBUG=1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in ours
    try:
        app = build_app(run=next((word for word in arguments if not word.startswith("-")), None))
        code = app(arguments, exit_on_error=False, print_error=not as_json, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        if as_json:
            _print_json_error("UsageError", str(error), None, None, 2)
        return 2
    except IsthmusError as error:
        _report(error, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        bug = IsthmusError(
            f"{type(error).__name__}: {error}",
            where="internal error",
            hint="this is a bug in isthmus; ISTHMUS_DEBUG=1 shows where",
        )
        _report(bug, as_json)
        return 1


def _report(error: IsthmusError, as_json: bool) -> None:
    if os.environ.get("ISTHMUS_DEBUG") == "1":
        traceback.print_exc()
    if as_json:
        _print_json_error(type(error).__name__, error.message, error.where, error.hint, error.exit_code)
    else:
        print(f"error: {error}", file=sys.stderr)


def _print_json_error(kind: str, message: str, where: str | None, hint: str | None, code: int) -> None:
    error = {"type": kind, "message": message, "where": where, "hint": hint, "exit_code": code}
    print(json.dumps({"error": error}), file=sys.stderr)
