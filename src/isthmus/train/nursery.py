"""Forks ranks from a process that has imported all they need: `python -m isthmus.train.nursery [MODULE]`.

A fresh interpreter imports torch for seconds, a fork has it. Only a process with a single thread may be
forked, and never one that holds an accelerator's context: this one computes nothing. Where a library has
started a thread all the same, each rank begins in an interpreter of its own. Orders come on standard input, a
JSON object a line (`Birth`); each is answered on standard output by "process pid". The child's parent is
whoever started this nursery, if that is a subreaper: the child outlives the nursery, and its end is seen
there.
"""

import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from isthmus.train.birth import Birth

READY = "ready"
BEAR = "--bear"
RANKS = "isthmus.train.__main__"
"""What is imported where nothing else is named; a `before_forks` in it is called once."""


def main() -> None:
    if sys.argv[1:2] == [BEAR]:
        _orphan(msgspec.json.decode(sys.argv[2], type=Birth))
    import torch

    torch.set_num_threads(1)
    module = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else RANKS)
    if before_forks := getattr(module, "before_forks", None):
        before_forks()
    print(READY, flush=True)
    for line in sys.stdin:
        bear(line)


def bear(order: str) -> None:
    """A lock that another thread holds at a fork is held for ever in the child: where there is one, the child
    is no fork.
    """
    if num_threads := len(os.listdir("/proc/self/task")) - 1:
        print(f"{num_threads} threads beside the main one: a fresh interpreter", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "isthmus.train.nursery", BEAR, order], check=False)
        return
    middle = os.fork()
    if middle == 0:
        _orphan(msgspec.json.decode(order, type=Birth))
    os.waitpid(middle, 0)


def _orphan(birth: Birth) -> NoReturn:
    """A child of this process, which ends: so it becomes the subreaper's."""
    child = os.fork()
    if child:
        os.write(1, f"{birth.process} {child}\n".encode())
        os._exit(0)
    code = 1
    try:
        code = _live(birth)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _live(birth: Birth) -> int:
    import torch

    os.setsid()
    write_to(Path(birth.log))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(birth.env)
    torch.set_num_threads(birth.threads)
    return importlib.import_module(birth.module).main(birth.arguments)


def write_to(log: Path) -> None:
    """Standard output and error of this process go to the end of this file from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)


if __name__ == "__main__":
    main()
