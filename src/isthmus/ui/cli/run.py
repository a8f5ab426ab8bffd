"""`isthmus run`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from isthmus.errors import InputError

Command = Annotated[str, Parameter(allow_leading_hyphen=True)]


def run(
    *command: Command,
    nproc: int = 1,
    run_dir: Path | None = None,
    standbys: int = 1,
    tee: str = "0",
    patient: bool = False,
) -> int:
    """Run a PyTorch training script on this node and keep it alive.

    `isthmus run --nproc 4 -- python train.py --lr 1e-4` starts four ranks as torchrun would. When one dies or
    hangs, all are started again at once, from processes that have torch imported, and resume from the
    script's own checkpoint. With `isthmus.live` in the script (docs/run.md) the other ranks stay, and no step
    is lost. Its exit code is that of the script; after Ctrl-C it is 130.

    Under torchrun or srun, one task for each rank, it takes the number of ranks from there:
    `torchrun --nproc-per-node 4 --no-python isthmus run -- python train.py`.

    Parameters
    ----------
    command
        What to run: `python train.py ARGS`, `train.py ARGS` or `-m module ARGS`.
    nproc
        Ranks.
    run_dir
        Where journal and logs go; by default runs/run-<time>.
    standbys
        Processes to keep ready for the next fault.
    tee
        Ranks whose output is shown here, such as 0,3, or 'all'. The logs have that of all.
    patient
        Do not take ten minutes without an optimizer step for a hang.
    """
    from isthmus.agent.script import Script, default_run_dir, keep_script, read_command
    from isthmus.agent.under import lead, node_of

    for name, value, least in (("--nproc", nproc, 1), ("--standbys", standbys, 0)):
        if value < least:
            raise InputError(f"{value} is too few", where=name, hint=f"{least} or more")
    words = read_command(command)
    node = node_of(os.environ)
    ranks = node.num_ranks if node else nproc
    script = Script(words, ranks, run_dir or default_run_dir(), standbys, read_tee(tee, ranks), patient)
    if node:
        return lead(node, lambda: keep_script(script).exit_code)
    return keep_script(script).exit_code


def read_tee(text: str, ranks: int) -> tuple[int, ...]:
    """'all' or '0,3'."""
    if text == "all":
        return tuple(range(ranks))
    words = [word for word in text.split(",") if word]
    if not all(word.isdecimal() and int(word) < ranks for word in words):
        raise InputError(f"'{text}' names no ranks of {ranks}", where="--tee", hint="for example 0,1 or all")
    return tuple(map(int, words))
