"""`isthmus version`."""

import json
import platform
from importlib import metadata

from isthmus import __version__

LIBRARIES = ("torch", "numpy", "numba", "msgspec", "tokenizers")


def version(*, json_: bool = False) -> None:
    """Print the versions of isthmus and of what it runs on.

    Parameters
    ----------
    json_
        Print one JSON object.
    """
    versions = {"isthmus": __version__, "python": platform.python_version(), "system": platform.platform()}
    versions |= {name: _installed(name) for name in LIBRARIES}
    if json_:
        print(json.dumps(versions))
        return
    for name, number in versions.items():
        print(f"{name:<11} {number}")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
