"""What no plan, fleet or run says of failures and recovery."""

import msgspec

from isthmus.errors import InputError
from isthmus.spec.ranges import AtLeast1, NonNegative
from isthmus.units import Bandwidth, Seconds

LLAMA_3_NODES, LLAMA_3_DAYS, LLAMA_3_FAILURES = 2048, 54, 419
"""The Llama 3 Herd of Models (arXiv 2407.21783), section 3.3.4: unexpected interruptions on 16,384 H100."""
NODE_MTBF_S = LLAMA_3_NODES * LLAMA_3_DAYS * 86_400 / LLAMA_3_FAILURES
"""264 days."""


class Assumptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no file says. Where no source is named, a guess that can be replaced by a measurement."""

    mtbf: Seconds = Seconds(NODE_MTBF_S)
    """Of a node whose `mtbf` the fleet does not give. Llama 3: 419 failures in 54 days on 2,048 nodes."""
    detect: Seconds = Seconds(30.0)
    """From a failure until the ranks are stopped. A dead process is seen at once, a hung one at a timeout."""
    restart: Seconds = Seconds(120.0)
    """New processes and process groups, up to the first step; reading the checkpoint is extra."""
    repair: Seconds = Seconds(86_400.0)
    """From a node's failure until it is there as a spare."""
    write: Bandwidth = Bandwidth(8e9)
    """At which a node writes and reads its part of a checkpoint: 1 GB/s."""
    copy: Bandwidth = Bandwidth(80e9)
    """At which a node copies its part aside while training stands: 10 GB/s."""
    slow_per_day: NonNegative = 0.0
    """Slow times of each site's line."""
    slow: Seconds = Seconds(1800.0)
    """Their mean length."""
    slow_factor: NonNegative = 10.0
    """How many times longer a transfer then takes."""
    server_mtbf: Seconds = Seconds(NODE_MTBF_S)
    """Of the parameter server's machine; 0: it does not fail."""
    takeover: Seconds = Seconds(60.0)
    """From its failure until it, or the standby, serves again."""
    replica: AtLeast1 = 1
    """Nodes of one replica, where the plan has no layout: they stop together where sites may shrink."""


def check_assumptions(assume: Assumptions) -> None:
    """Raises InputError where nothing would ever be written, and where nodes never live."""
    for name in ("mtbf", "write", "copy"):
        value = getattr(assume, name)
        if not value:
            raise InputError(f"it is assumed to be {value}", where=name, hint="give it above 0")
