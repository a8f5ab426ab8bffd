"""The command itself: start, errors, exit codes. Verbs have tests of their own."""

import json
import subprocess
import sys

import pytest

from isthmus import errors
from isthmus.ui import cli
from isthmus.ui.cli import version as version_verb


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(_: str) -> str:
        raise error

    monkeypatch.setattr(version_verb, "_installed", broken)


def test_help_lists_every_verb_and_imports_none():
    code = "import sys; from isthmus.ui import cli; cli.main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    help_text, modules = out.rsplit("\n", 2)[:2]
    loaded = set(modules.split())
    for verb in cli.VERBS:
        assert verb.name in help_text
        assert f"isthmus.ui.cli.{verb.target.split(':')[0]}" not in loaded
    assert not loaded & {"torch", "numpy", "numba", "msgspec", "tokenizers"}


def test_a_verb_shows_its_own_docstring(capsys):
    assert cli.main(["version", "--help"]) == 0
    assert "Print one JSON object" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("bad", where="run.yaml:3", hint="mend it"), 2),
        (errors.NotFoundError("bad", where="run.yaml:3", hint="mend it"), 3),
        (errors.AuthError("bad", where="run.yaml:3", hint="mend it"), 4),
        (errors.DegradedError("bad", where="run.yaml:3", hint="mend it"), 7),
    ],
)
def test_errors_go_to_stderr_with_their_exit_code(monkeypatch, capsys, error, code):
    fail_with(monkeypatch, error)
    assert cli.main(["version"]) == code
    captured = capsys.readouterr()
    assert captured.err == "error: run.yaml:3: bad\n  hint: mend it\n"
    assert captured.out == ""
    assert cli.main(["version", "--json"]) == code
    told = json.loads(capsys.readouterr().err)["error"]
    assert told.pop("type") == type(error).__name__
    assert told == {"message": "bad", "where": "run.yaml:3", "hint": "mend it", "exit_code": code}


def test_bugs_show_a_traceback_only_on_request(monkeypatch, capsys):
    fail_with(monkeypatch, ZeroDivisionError("oops"))
    monkeypatch.delenv("ISTHMUS_DEBUG", raising=False)
    assert cli.main(["version"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    monkeypatch.setenv("ISTHMUS_DEBUG", "1")
    assert cli.main(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_usage_errors_and_interrupts(monkeypatch, capsys):
    assert cli.main(["version", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err
    assert cli.main(["version", "--nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2
    fail_with(monkeypatch, KeyboardInterrupt())
    assert cli.main(["version"]) == 130


def test_a_closed_pipe_is_no_error():
    code = "import sys; from isthmus.ui import cli; sys.stdin.read(); sys.exit(cli.main(['version']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    child.stdout.close()
    child.stdin.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0
