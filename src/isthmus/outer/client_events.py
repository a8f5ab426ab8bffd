"""What the threads of a site's client put into its executor's queue, beside the machine's own events."""

from dataclasses import dataclass

import numpy as np

from isthmus.outer import bridge


@dataclass(frozen=True)
class Blob:
    """A fragment of a version is here."""

    key: str
    payload: np.ndarray


@dataclass(frozen=True)
class Sent:
    """The server has a fragment of ours."""

    key: str


@dataclass(frozen=True)
class Heard:
    """A message from the ranks; None: they hung up."""

    line: bridge.Line
    message: bridge.LocalMessage | None


@dataclass(frozen=True)
class Dialled:
    """New ranks are there; those before are gone."""

    line: bridge.Line
