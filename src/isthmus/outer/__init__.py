"""Training across sites: the protocol, the parameter server, each site's client, and `Site` for any loop.

`Site` needs torch and is imported when it is named; nothing else in this room does.
"""

from importlib import import_module
from typing import Any

_TORCH = {"Site", "SiteJob"}


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(import_module("isthmus.outer.site"), name)
    raise AttributeError(f"module 'isthmus.outer' has no attribute '{name}'")
