"""`isthmus bench` and the package's own command."""

import json
import sys
from types import ModuleType

import pytest

from isthmus.errors import UnreachableError
from isthmus.ui import cli
from isthmus.ui.cli import bench as bench_verb
from isthmus_bench import __main__ as command
from isthmus_bench.document import Result
from isthmus_bench.targets import target_of

RESULTS = [
    Result(id="outer.bytes.int8", value=3.95, unit="ratio", peers={"fp32": 1.0}, note="framing included"),
    Result(id="outer.bytes.int4", value=7.1, unit="ratio"),
    Result(id="outer.extra", value=12345.6, unit="tokens/s"),
]


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("isthmus_bench.outer")
    module.run = lambda quick: RESULTS[: 1 if quick else 3]  # pyright: ignore
    monkeypatch.setitem(sys.modules, "isthmus_bench.outer", module)
    return module


def test_the_table_judges_against_targets(outer: ModuleType, capsys):
    assert command.main(["outer"]) == 0
    out = capsys.readouterr().out
    assert ">= 3.9, met" in out
    assert ">= 7.5, MISSED" in out
    assert "fp32: 1" in out
    assert "12,346" in out


def test_the_document(outer: ModuleType, capsys):
    assert command.main(["outer", "--quick", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"machine", "results"}
    (result,) = told["results"]
    assert set(result) == {"id", "value", "unit", "peers", "note"}


def test_only_faults_has_long_ones(outer: ModuleType, capsys):
    with pytest.raises(SystemExit) as told:
        command.main(["outer", "--soak"])
    assert told.value.code == 2
    assert "--soak" in capsys.readouterr().err


def test_errors_keep_their_exit_code(outer: ModuleType, capsys):
    def run(quick: bool) -> list[Result]:
        raise UnreachableError("no link", hint="plug it in")

    outer.run = run  # pyright: ignore
    assert command.main(["outer"]) == 4
    assert "plug it in" in capsys.readouterr().err


def test_targets_match_by_pattern():
    assert str(target_of("outer.equivalent_compute.3sites.int4")) == ">= 0.97"
    assert target_of("outer.equivalent_compute.2sites.fp32") is None
    assert target_of("outer.bytes_down.int8") is None


def test_the_verb_passes_its_options_on(monkeypatch, capsys):
    asked = []

    class Done:
        returncode = 4

    monkeypatch.setattr(bench_verb.subprocess, "run", lambda words, check: asked.append(words) or Done())
    assert cli.main(["bench", "sim", "--quick", "--json"]) == 4
    assert asked[0][1:] == ["-m", "isthmus_bench", "sim", "--quick", "--json"]
    assert cli.main(["bench", "nonsense"]) == 2
    monkeypatch.setattr(bench_verb, "find_spec", lambda name: None)
    assert cli.main(["bench", "sim"]) == 3
