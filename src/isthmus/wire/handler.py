"""What the application gives to the transport, and what it gets for each payload."""

import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from isthmus.wire.peer import Peer


class PeerHandler(Protocol):
    """What the application does about a peer. Called from the transport's threads: be quick, never block."""

    def on_up(self, peer: "Peer") -> None:
        """The link is there (again). Transfers under way resume by themselves; messages do not."""

    def on_down(self, peer: "Peer", reason: str) -> None:
        """The link is gone. Called once per `on_up`, and once more if a session was refused for good."""

    def on_message(self, peer: "Peer", message: bytes) -> None: ...

    def allocate(self, peer: "Peer", key: str, size: int) -> Any:
        """A writable buffer of exactly `size` bytes for what `key` names, or None to decline it for good."""

    def on_blob(self, peer: "Peer", key: str, buffer: Any) -> None:
        """`buffer`, as `allocate` gave it, is complete and every chunk of it matched its checksum."""

    def on_sent(self, peer: "Peer", key: str) -> None:
        """The receiver's `on_blob` has run; the payload may be reused."""


class Handle:
    """One payload on its way out."""

    def __init__(self, key: str):
        self.key = key
        self.sent = False
        """The receiver confirmed all of it."""
        self._settled = threading.Event()

    @property
    def settled(self) -> bool:
        """Sent, declined or cancelled."""
        return self._settled.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Waits until the transfer is settled; True if it was sent."""
        self._settled.wait(timeout_s)
        return self.sent

    def settle(self, sent: bool) -> None:
        self.sent = sent
        self._settled.set()
