"""One entry of the catalogue."""

import msgspec

from isthmus.faults.terms import Action, Blast, FaultClass


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"kind": "class"}):
    """What one fault looks like in logs, what it means, what to do about it, how to know that it worked."""

    id: str
    """'XID-79', 'NCCL-WATCHDOG': capital letters, digits and hyphens."""
    title: str
    """One line: what happened."""
    kind: FaultClass
    """`class` in YAML and JSON."""
    chips: list[str]
    """nvidia, amd, ascend, cambricon, ...; 'any' where it is not of a chip."""
    signature: list[str]
    """Regular expressions of Python's `re`, each searched in one line of a log."""
    cause: str
    victim: bool = False
    """Usually seen on ranks that suffer from another one's fault: never blamed while another is found."""
    blast_radius: Blast
    action: Action
    verify: str
    """How to know that the action worked, before the part returns to work."""
    sources: list[str]
    """Public documents or issues it rests on: URLs, or a project's name and file."""
    tests: list[str]
    """Lines of real logs. Each must be found by this entry's signature."""
