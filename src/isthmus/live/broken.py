"""Which errors are those of a group, and not of the script."""

import re

from isthmus.errors import UnreachableError

_WORDS = re.compile(
    r"gloo|nccl|hccl|c10d|DistStore|ProcessGroup|Connection (?:closed|reset|refused)|"
    r"Socket|Broken pipe|wait timeout",
    re.IGNORECASE,
)


def is_of_the_group(error: BaseException) -> bool:
    """Another rank died, hung or is cut off: torch.distributed says so in many words."""
    if isinstance(error, UnreachableError):
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in kinds or (isinstance(error, RuntimeError) and bool(_WORDS.search(str(error))))
