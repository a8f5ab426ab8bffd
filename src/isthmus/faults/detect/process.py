"""What the system says of a process and of a node, from /proc."""

import os

from isthmus.faults.detect.readings import Process

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def parse_stat(text: str) -> Process:
    """A line of /proc/PID/stat, proc(5): after the name, which may hold blanks, field 3 is the state, 14
    and 15 the CPU time in ticks, 24 the resident pages.
    """
    fields = text[text.rindex(")") + 2 :].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    return Process(letter=fields[0], cpu_s=cpu_s, rss=int(fields[21]) * _PAGE)


def read_process(pid: int) -> Process | None:
    """None: it is gone."""
    try:
        return parse_stat(read_text(f"/proc/{pid}/stat"))
    except (OSError, ValueError, IndexError):
        return None


def read_text(path: str) -> str:
    """Of a small file of /proc, in as few steps as there are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)


def read_contention(cores: int) -> float:
    """Threads that run or want to, on the whole machine, for each of `cores`: from /proc/loadavg, field 4. At
    least 1; 1 where it cannot be read.
    """
    try:
        running = int(read_text("/proc/loadavg").split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return 1.0
    return max(1.0, running / max(1, cores))
