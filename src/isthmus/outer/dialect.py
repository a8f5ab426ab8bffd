"""What two processes must have in common before they exchange a single message."""

import functools

import msgspec
import xxhash

from isthmus import __version__
from isthmus.outer.messages import AnyMessage
from isthmus.outer.protocol.records import AnyRecord


@functools.cache
def dialect() -> bytes:
    """The version of the code, and a hash of all messages and records as they are declared: other code of
    the same version that says anything in another way has another one."""
    declared = msgspec.json.schema(AnyMessage | AnyRecord)
    digest = xxhash.xxh3_64_hexdigest(msgspec.json.encode(declared, order="sorted"))
    return f"isthmus {__version__} ({digest[:8]})".encode()
