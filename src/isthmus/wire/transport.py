"""The transport between sites: what the rest of isthmus uses of it.

A `Listener` at the server, a `Session` at each site, and on both sides a `Peer` to send messages and buffers
to. Everything else in this room is how they do it.
"""

from isthmus.wire.handler import Handle, PeerHandler
from isthmus.wire.handshake import Timing, format_address, parse_address
from isthmus.wire.listener import Listener
from isthmus.wire.meter import LinkStats
from isthmus.wire.peer import Peer
from isthmus.wire.session import Session
from isthmus.wire.tls import ClientTls, Plain, ServerTls

__all__ = [
    "ClientTls",
    "Handle",
    "LinkStats",
    "Listener",
    "Peer",
    "PeerHandler",
    "Plain",
    "ServerTls",
    "Session",
    "Timing",
    "format_address",
    "parse_address",
]
