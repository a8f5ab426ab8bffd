"""A rank that runs a user's script: forked by the nursery, it waits for a place and runs the script there.

The script finds what torchrun would give it. Its optimizer's steps are counted from outside, so that the
agent sees progress. What it may do beyond that is in `live.join`.
"""

import argparse
import atexit
import faulthandler
import os
import runpy
import struct
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from setproctitle import setproctitle
from torch.optim.optimizer import register_optimizer_step_post_hook

import isthmus.live  # noqa: F401 - what scripts import is there when they are forked
from isthmus.errors import IsthmusError, UnreachableError
from isthmus.faults.page import Phase
from isthmus.heal.messages import Failed, Form, Leave, Warm
from isthmus.live.broken import is_of_the_group
from isthmus.live.keep import KEEP
from isthmus.live.owner import OWNER, Home, Owner
from isthmus.rundir import RunDir

SILENT_START_S = 120.0
"""A script that has stepped no optimizer by then is taken to be running all the same."""
KILLED_S = 60.0
"""Until an agent ends a process that is of no more use."""
USAGE = 2
_MODULE = "-m"
_OURS = (__file__, runpy.__file__, "<frozen runpy>")


def before_forks() -> None:
    """In the nursery: what torch imports when an optimizer is made is paid once. A step of it would ask for
    the accelerators, and their driver starts a thread.
    """
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="isthmus.live.script")
    for name in ("live", "run-dir", "site", "process"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--patient", action="store_true")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    home = Home(Path(options.live), RunDir(options.run_dir), options.site, options.process)
    setproctitle(f"isthmus run: {' '.join(options.words)} --process {options.process}")
    return run(Owner(home), options.words, options.patient)


def run(owner: Owner, words: list[str], patient: bool) -> int:
    """Waits for a place unless the script does so itself. Returns the exit code; the agent has heard it."""
    if not owner.warms_up:
        owner.line.say(Warm())
    order = owner.first_order()
    while isinstance(order, Form):
        try:
            owner.take(order)
            break
        except UnreachableError:
            order = owner.next_order()
    if isinstance(order, Leave):
        return _leave(owner)
    OWNER.set(owner)
    steps = Steps(owner, patient)
    register_optimizer_step_post_hook(steps)
    if owner.form is not None:
        later = threading.Timer(SILENT_START_S, steps.is_running)
        later.daemon = True
        later.start()
    return _ended(owner, steps, words)


def _ended(owner: Owner, steps: "Steps", words: list[str]) -> int:
    try:
        _GLOBALS.set(execute(words))
    except SystemExit as end:
        code = _code(end)
        if code:
            return _failed(owner, steps, f"exit code {code}", "", code)
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in _OURS]
        text = _text(error, len(frames))
        print(text, file=sys.stderr, end="")
        if is_of_the_group(error):
            return _fell_out(owner, error)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        first = str(error).splitlines()[0] if str(error) else ""
        code = error.exit_code if isinstance(error, IsthmusError) else 1
        return _failed(owner, steps, f"{type(error).__name__}: {first}{place}", text, code)
    try:
        if keep := KEEP.get():
            keep.finish()
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
    except Exception as error:
        return _fell_out(owner, error)
    return _leave(owner)


def _leave(owner: Owner) -> int:
    owner.leave()
    return 0


def _text(error: BaseException, num_frames: int) -> str:
    """The traceback without our own frames."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(told.stack[-num_frames:] if num_frames else [])
    return "".join(told.format())


def _code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _failed(owner: Owner, steps: "Steps", error: str, text: str, code: int) -> int:
    """A standby that cannot warm up waits for its place from now on. A script that fails at its very first
    start, before any step, fails again.
    """
    if owner.form is None:
        owner.stay_cold()
        return 1
    final = owner.form.generation == 1 and not steps.any and owner.step <= 0
    code = code if code == USAGE else 1
    owner.line.say(Failed(owner.step, error, text, code, final or code == USAGE))
    return code


def _fell_out(owner: Owner, error: BaseException) -> int:
    """Its group broke and it cannot go on with another: the agent, which knows why, starts it anew."""
    if owner.form is None:
        return 1
    owner.stays = False
    owner.line.say(owner.hello())
    owner.broken(str(error).splitlines()[0] if str(error) else type(error).__name__)
    time.sleep(KILLED_S)
    return 1


_GLOBALS: ContextVar[dict[str, object]] = ContextVar("globals")
"""Of the script that ran."""


def execute(words: Sequence[str]) -> dict[str, object]:
    """Runs `train.py ARGS` or `-m module ARGS` as __main__ in this process.

    Returns its globals. Keep them to the end: a process group that is torn down with them waits for a thread
    of gloo's, which may wait for the interpreter lock.
    """
    if words[0] == _MODULE:
        sys.argv = list(words[1:])
        sys.path[0] = os.getcwd()
        return runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    sys.argv = list(words)
    sys.path[0] = str(Path(words[0]).resolve().parent)
    return runpy.run_path(words[0], run_name="__main__")


class Steps:
    """Counts the steps of the script's first optimizer. They begin at what a checkpoint says its optimizer
    has done, or else go on from where an earlier start of the script has come to.

    Args:
        patient: do not take a long time without a step for a hang.
    """

    def __init__(self, owner: Owner, patient: bool):
        self._owner, self._between = owner, Phase.IDLE if patient else Phase.EVALUATE
        self._first: torch.optim.Optimizer | None = None
        self._file = os.open(owner.home.live / "counted", os.O_RDWR | os.O_CREAT, 0o600)
        data = os.pread(self._file, 8, 0)
        self._before = struct.unpack("q", data)[0] if data else 0
        self._told = False

    @property
    def any(self) -> bool:
        return self._first is not None

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        owner = self._owner
        if owner.stays or owner.form is None:
            return
        if self._first is None:
            self._first = optimizer
            own = _own_steps(optimizer)
            owner.step = self._before if own is None else own - 1
            self.is_running()
        if optimizer is self._first:
            owner.step += 1
            owner.page.end_step(owner.step)
            owner.page.phase(self._between)
            if owner.form.rank == 0:
                os.pwrite(self._file, struct.pack("q", owner.step), 0)

    def is_running(self) -> None:
        """For the agent: the group stands."""
        if not self._told and not self._owner.stays:
            self._told = True
            self._owner.joined(self._owner.step)


def _own_steps(optimizer: torch.optim.Optimizer) -> int | None:
    """As the state of many optimizers says, also after it came from a checkpoint."""
    counts = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
    return max(counts, default=None)
