"""The processes of a node: forked by a nursery, watched through their descriptors, killed."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from isthmus import leash
from isthmus.errors import IsthmusError
from isthmus.train.birth import Birth

_PR_SET_CHILD_SUBREAPER = 36
_NURSERY = "isthmus.train.nursery"
_NO_DRIVER = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Who asks torch for CUDA devices is answered without the driver, whose context does not survive a fork."""
START_S = 120.0
"""Until a nursery has imported what it needs, on a busy machine."""
BARREN = 3
"""Nurseries in a row that fail at their first birth: the next one would as well."""


def readable(descriptors: Iterable[int], timeout_s: float) -> list[int]:
    """Those that can be read, after waiting at most `timeout_s` for the first."""
    watch = select.poll()
    for descriptor in descriptors:
        watch.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in watch.poll(1000 * timeout_s)]


@dataclass(frozen=True)
class Exit:
    """`code`: negative for a signal; None where another process was its parent."""

    process: str
    code: int | None


@dataclass
class Brood:
    """Owns the nursery and a descriptor of each process.

    Args:
        log: of the nursery itself.
    """

    log: Path
    imports: Sequence[str] = ()
    """The module that the nursery imports, if it is not that of a run's ranks."""
    pids: dict[str, int] = field(default_factory=dict)
    _descriptors: dict[int, str] = field(default_factory=dict)
    _nursery: subprocess.Popen[bytes] | None = None
    _pending: bytes = b""
    _unborn: dict[str, Birth] = field(default_factory=dict)
    """Asked for and not born yet: a nursery that dies is asked no more, the next one is."""
    _ready: bool = False
    _barren: int = 0
    """Nurseries that failed since the last birth."""
    _since_s: float = 0.0

    def open(self) -> None:
        """Orphans of the nursery become children of this process."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._start_nursery()

    def _start_nursery(self) -> None:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self._nursery = subprocess.Popen(
                leash.command(_NURSERY, self.imports),
                env={**os.environ, **single, "RAYON_NUM_THREADS": "1", **_NO_DRIVER},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._ready, self._pending, self._since_s = False, b"", time.monotonic()

    @property
    def answers(self) -> Sequence[int]:
        """Readable when there is something to `hear`."""
        return [self._nursery.stdout.fileno()] if self._nursery and self._nursery.stdout else []

    @property
    def descriptors(self) -> Sequence[int]:
        """Readable when there is something to `hear` or to `reap`."""
        return [*self.answers, *self._descriptors]

    def bear(self, birth: Birth) -> None:
        """Fork it as soon as the nursery is ready."""
        self._unborn[birth.process] = birth
        if self._nursery is None:
            self._start_nursery()
        elif self._ready:
            self._ask(birth)

    def _ask(self, birth: Birth) -> None:
        assert self._nursery
        assert self._nursery.stdin
        with contextlib.suppress(BrokenPipeError):
            self._nursery.stdin.write(msgspec.json.encode(birth) + b"\n")
            self._nursery.stdin.flush()

    def adopt(self, process: str, pid: int) -> None:
        """Watch a process that an earlier life of this agent has started."""
        if process not in self.pids:
            with contextlib.suppress(ProcessLookupError):
                self._watch(process, pid)

    def _watch(self, process: str, pid: int) -> None:
        self.pids[process] = pid
        self._descriptors[os.pidfd_open(pid)] = process

    def hear(self) -> list[str]:
        """Processes that the nursery has borne since the last call. Raises IsthmusError where it cannot
        start.
        """
        assert self._nursery
        assert self._nursery.stdout
        answer = os.read(self._nursery.stdout.fileno(), 1 << 16)
        if not answer:
            self._nursery_died()
            return []
        self._pending += answer
        *lines, self._pending = self._pending.split(b"\n")
        born: list[str] = []
        for line in lines:
            if line == b"ready":
                self._ready = True
                for birth in self._unborn.values():
                    self._ask(birth)
                continue
            process, pid = line.decode().split()
            self._unborn.pop(process, None)
            self.adopt(process, int(pid))
            born.append(process)
            self._barren = 0
        return born

    def _nursery_died(self) -> None:
        """Its children live on. One that cannot even start is an error of the installation, as are several in
        a row that bear nothing; but ranks that train are no worse for it.
        """
        assert self._nursery
        code = _close(self._nursery)
        self._barren += code > 0
        no_start = not self._ready and time.monotonic() < self._since_s + START_S and code > 0
        if not self.pids and (no_start or self._barren >= BARREN):
            words = self.log.read_text(errors="replace").splitlines()[-12:]
            raise IsthmusError("ranks cannot be started\n" + "\n".join(words), where=str(self.log))
        if self._barren >= BARREN:
            self._nursery, self._barren = None, 0  # who asked gives up in time; the next order makes another
            self._unborn.clear()
        else:
            self._start_nursery()

    def reap(self, descriptor: int) -> Exit | None:
        """The process behind a readable descriptor, which is gone."""
        if descriptor not in self._descriptors or not readable([descriptor], 0.0):
            return None  # the number was another's when it became readable
        process = self._descriptors.pop(descriptor)
        os.close(descriptor)
        pid = self.pids.pop(process)
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            return Exit(process, None)
        return Exit(process, os.waitstatus_to_exitcode(status))

    def kill(self, process: str) -> bool:
        """With all it has started, now. False if there is none."""
        self._unborn.pop(process, None)
        pid = self.pids.get(process)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return True

    def pin(self, process: str, cpus: frozenset[int]) -> None:
        """All threads of the process run there from now on."""
        pid = self.pids.get(process)
        if pid is None or not cpus:
            return
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cpus)

    def close(self) -> None:
        """Kills every process, and the nursery."""
        for process in list(self.pids):
            self.kill(process)
        if self._nursery:
            self._nursery.kill()
            _close(self._nursery)


def _close(nursery: subprocess.Popen[bytes]) -> int:
    """Its exit code, once it has ended. What it was told and has not read is of no use."""
    with contextlib.suppress(BrokenPipeError), nursery:
        pass
    return nursery.wait()
