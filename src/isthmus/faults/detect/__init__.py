"""Is there a fault, and whose is it? `Watch` is fed with what an agent reads 20 times a second and answers
with findings. Nothing here reads a clock, a file or a socket but `process` and `disk_probe`, which an agent
calls.

    hang           nobody goes on: who do the others wait for, and is it asleep, stopped, or short of data
    slow           a rank computes slower than it did beside the others
    numbers        a gradient that is not finite, a loss that jumps
    sdc            the copies of the state differ: the many outvote the few
    memory, disk   what grows until it meets a limit; a disk that does not keep what is written

Of a site's link to its server its client asks by itself:

    link           slower than it was, or losing more
    clock_skew     clocks that are apart
"""

from isthmus.faults.detect.readings import NodeFacts, Process, Readings
from isthmus.faults.detect.watch import Watch, WatchSettings

__all__ = ["NodeFacts", "Process", "Readings", "Watch", "WatchSettings"]
