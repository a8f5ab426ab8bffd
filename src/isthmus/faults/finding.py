"""What a detector says."""

import msgspec

from isthmus.faults.terms import FaultClass


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "class"}):
    """A fault, as soon as it is seen."""

    kind: FaultClass
    rank: int | None
    """The rank it is blamed on; None where nothing names one."""
    what: str
    """In a sentence, with the figures it rests on."""
    began_s: float
    """When it began, as far as can be told; monotonic seconds."""
    seen_s: float
    """When it was found."""
    suspects: tuple[int, ...] = ()
    """Where it may be one of several."""
    lasting: bool = True
    """The rank will not go on by itself: it must be replaced."""
