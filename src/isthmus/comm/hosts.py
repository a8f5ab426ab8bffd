"""Names of hosts, as launchers give them."""

import re

from isthmus.errors import InputError


def first_host(nodelist: str) -> str:
    """'gpu[07-09,12],login1' -> 'gpu07': the first of Slurm's compressed list of hosts."""
    head = re.match(r"([^\[,]+)(?:\[([^\]]+)\]([^,]*))?", nodelist)
    if not head:
        raise InputError(f"'{nodelist}' is not a list of hosts", where="environment SLURM_STEP_NODELIST")
    prefix, numbers, suffix = head.groups()
    if numbers is None:
        return prefix
    return prefix + re.split(r"[,-]", numbers)[0] + (suffix or "")
