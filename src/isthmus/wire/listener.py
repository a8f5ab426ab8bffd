"""The server's side: one port, every site dials in."""

import contextlib
import logging
import secrets
import socket
import ssl
import threading
from collections import deque
from collections.abc import Mapping

from isthmus.errors import InputError
from isthmus.wire import handshake, probe, tls
from isthmus.wire.channel import Channel
from isthmus.wire.frames import FrameError
from isthmus.wire.handler import PeerHandler
from isthmus.wire.handshake import Address, Timing
from isthmus.wire.hello import Hello, Refusal
from isthmus.wire.link import Link
from isthmus.wire.peer import Peer
from isthmus.wire.tls import Plain, ServerTls

_log = logging.getLogger(__name__)
MAX_HANDSHAKES = 64
MAX_STREAMS = 32
MAX_PROBES = 16
MAX_PEERS = 1024


class Listener:
    """Listens from construction on, until `close`. `address` is where, with the real port."""

    def __init__(
        self,
        address: Address,
        tls: ServerTls | Plain,
        handler: PeerHandler,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        speaks: bytes = b"",
    ):
        """`speaks`: readable name of what the application says; who says another is refused (empty: nobody).

        Raises InputError if the address cannot be bound, or is not loopback while `tls` is Plain."""
        self._tls = tls
        self._context = _context(tls, address)
        self._handler = handler
        self._timing = timing
        self._speaks = speaks
        self._session = secrets.token_hex(8)
        self._peers: dict[str, Peer] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._probes = threading.BoundedSemaphore(MAX_PROBES)
        self._threads: set[threading.Thread] = set()
        self.facts: Mapping[str, str] = {}
        """Name -> hash or version, told to `isthmus check link`: see `probe.run_facts`."""
        self.refusals: deque[str] = deque(maxlen=64)
        """Who was turned away and why, latest last."""
        self._socket = _bind(address)
        self.address: Address = self._socket.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name="wire-accept", daemon=True)
        self._acceptor.start()

    @property
    def peers(self) -> list[Peer]:
        """Every site that ever came, up or not, sorted by name."""
        with self._lock:
            return [self._peers[name] for name in sorted(self._peers)]

    def close(self) -> None:
        """Ends all links; every `on_down` has run when it returns."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10.0)
        self._socket.close()
        for peer in self.peers:
            peer.drop("the server closes")
        for thread in list(self._threads):
            thread.join(10.0)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError:
                if self._closed.wait(0.05):
                    return
                continue
            if not self._handshakes.acquire(blocking=False):
                sock.close()
                continue
            thread = threading.Thread(
                target=self._welcome, args=(sock, address[:2]), name="wire-peer", daemon=True
            )
            self._threads.add(thread)
            thread.start()

    def _welcome(self, sock: socket.socket, address: Address) -> None:
        try:
            try:
                channel, hello = handshake.answer(sock, self._tls, self._context, self._timing)
            except (ssl.SSLError, FrameError) as error:
                self._note(handshake.format_address(address), str(error))
                return
            except tls.AuthError as error:
                self._note(handshake.format_address(address), error.message)
                return
            finally:
                self._handshakes.release()
            self._serve(channel, hello)
        except (OSError, FrameError) as error:
            _log.debug("connection from %s lost: %s", address, error)
        finally:
            self._threads.discard(threading.current_thread())

    def _note(self, where: str, reason: str) -> None:
        self.refusals.append(f"{where}: {reason}")
        _log.warning("refused %s: %s", where, reason)

    def _serve(self, channel: Channel, hello: Hello) -> None:
        if not 1 <= hello.streams <= MAX_STREAMS or not 0 <= hello.stream < hello.streams:
            handshake.refuse(
                channel, Refusal(kind="auth", message=f"1 to {MAX_STREAMS} streams may be opened")
            )
        elif hello.role == "control":
            self._serve_control(channel, hello)
        elif hello.role == "probe":
            self._serve_probe(channel)
        else:
            self._attach(channel, hello)

    def _serve_control(self, channel: Channel, hello: Hello) -> None:
        if self._speaks not in (b"", hello.body):
            theirs, ours = (text.decode(errors="replace") for text in (hello.body, self._speaks))
            reason = f"'{hello.site}' speaks {theirs or 'something unnamed'}, this server {ours}"
            self._note(hello.site, reason)
            hint = "install the same version of isthmus on both sides"
            handshake.refuse(channel, Refusal(kind="auth", message=reason, hint=hint))
            return
        peer = self._peer_of(hello)
        if peer is None or self._closed.is_set():
            handshake.refuse(channel, Refusal(kind="busy", message="the server takes no more sites now"))
            return
        link = Link(peer.exchange, channel, hello.streams, self._timing)
        link.id = secrets.token_hex(8)
        if not peer.take_over(link, self._timing.handshake_s):
            handshake.refuse(channel, Refusal(kind="busy", message="the link before is still being closed"))
            return
        try:
            handshake.welcome(channel, self._session, link.id)
        except OSError as error:
            link.end(str(error))
        if self._closed.is_set():
            link.end("the server closes")
        peer.serve(link, announce=False)

    def _peer_of(self, hello: Hello) -> Peer | None:
        with self._lock:
            before = self._peers.get(hello.site)
            if before is not None and before.session == hello.session:
                return before
            if before is None and len(self._peers) >= MAX_PEERS:
                return None
        if before is not None:
            before.retire("the site's process was started anew", self._timing.handshake_s)
        with self._lock:
            peer = Peer(hello.site, hello.session, self._handler, is_site=True, hello=hello.body)
            self._peers[hello.site] = peer
            return peer

    def _serve_probe(self, channel: Channel) -> None:
        if not self._probes.acquire(blocking=False):
            handshake.refuse(channel, Refusal(kind="busy", message="other link checks are running"))
            return
        try:
            handshake.welcome(channel, self._session, "")
            probe.answer(channel, self.facts, self._timing, self._closed)
        finally:
            self._probes.release()
            channel.close()

    def _attach(self, channel: Channel, hello: Hello) -> None:
        with self._lock:
            peer = self._peers.get(hello.site)
        link = peer.link if peer is not None and peer.session == hello.session else None
        if link is None or link.id != hello.link:
            handshake.refuse(channel, Refusal(kind="busy", message="the link this stream belongs to is gone"))
        elif not link.attach(hello.role, hello.stream, channel, sends=hello.role == "down"):
            handshake.refuse(
                channel, Refusal(kind="busy", message="the link this stream belongs to has ended")
            )
        else:
            handshake.welcome(channel, self._session, link.id)


def _context(party: ServerTls | Plain, address: Address) -> ssl.SSLContext | None:
    if isinstance(party, Plain):
        tls.check_plain(address[0])
        return None
    return party.context()


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"cannot listen: {error.strerror or error}",
            where=handshake.format_address(address),
            hint="another process may hold the port; port 0 takes a free one",
        ) from None
