"""The commands on our pages do what the pages say.

A fence of `yaml file=NAME` or `python file=NAME` is a file; each line of a fence of `console run` that begins
with `$ ` is run. The lines below it are its output (stdout, then stderr), where `...` stands for anything.
"""

import doctest
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^```(?P<kind>(?:yaml|python) file=(?P<file>\S+)|console run)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_TEXT_BYTES = 600_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with some text, as the tutorial asks for."""
    (tmp_path / "text").mkdir()
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n\n".join(path.read_text() for path in sources)
    (tmp_path / "text" / "python.txt").write_text(text[:_TEXT_BYTES])
    return tmp_path


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, expected output) of one console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def _run(command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    return done.stdout + done.stderr


PAGES = [
    "docs/tutorial.md",
    "docs/huggingface.md",
    "docs/moe.md",
    "docs/upcycling.md",
    "docs/planning.md",
    "docs/simulate.md",
    "docs/cost-model.md",
    "docs/probe.md",
    "docs/replan.md",
    "docs/run.md",
    "docs/diagnose.md",
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_true(page: str, place: Path):
    num_commands = 0
    for block in _BLOCK.finditer((ROOT / page).read_text()):
        if block["file"]:
            (place / block["file"]).write_text(block["text"])
            continue
        for command, expected in _commands(block["text"]):
            said = _run(command, place)
            assert doctest.OutputChecker().check_output(expected, said, _FLAGS), f"$ {command}\n{said}"
            num_commands += 1
    assert num_commands
