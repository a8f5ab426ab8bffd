"""A site's side: dials out, and keeps dialling, so that the application only sees its peer come and go."""

import random
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from isthmus.errors import AuthError, InputError, IsthmusError, UnreachableError
from isthmus.wire import certs, handshake
from isthmus.wire.handler import PeerHandler
from isthmus.wire.handshake import Address, Timing
from isthmus.wire.hello import Hello, Role
from isthmus.wire.link import Link
from isthmus.wire.peer import Peer
from isthmus.wire.tls import ClientTls, Plain

_FIRST_PAUSE_S = 0.05


class Session:
    """Dials from construction on, until `close` or until a server refuses for good.

    `addresses`: the server and its standbys; after a failed dial or a `peer.drop` the next one is tried.
    `hello`: bytes for the server's application, as `peer.hello` there. Each of `streams` is one connection
    per direction beside the control connection, since OpenSSL may not read and write one connection at once.
    """

    def __init__(  # noqa: PLR0913 - the public face; each is used by its name
        self,
        addresses: Sequence[Address | str],
        tls: ClientTls | Plain,
        handler: PeerHandler,
        hello: bytes = b"",
        *,
        streams: int = 2,
        congestion: str = "bbr",
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ):
        if not addresses:
            raise InputError("a session needs an address to dial")
        self._addresses = [handshake.parse_address(a) if isinstance(a, str) else a for a in addresses]
        self._tls = tls
        self._handler = handler
        self._timing = timing
        self._hello = Hello(
            site=tls.name,
            token="" if isinstance(tls, Plain) else tls.token,
            session=secrets.token_hex(8),
            role="control",
            streams=streams,
            congestion=congestion,
            body=hello,
        )
        self._jitter = random.Random(self._hello.session)
        self._server = ""
        """Random name of the server's process: after a restart, or with a standby, it is another."""
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._failure: UnreachableError | None = None
        self.error: AuthError | None = None
        """Why no more dials are made: a refusal that another try would not change."""
        self.peer = Peer(certs.SERVER, self._hello.session, handler, is_site=False)
        self._thread = threading.Thread(target=self._run, name="wire-session", daemon=True)
        self._thread.start()

    def wait_up(self, wait_s: float) -> Peer:
        """Waits for the link. Raises what the server refused us for, or after `wait_s` UnreachableError."""
        with self._changed:
            self._changed.wait_for(lambda: self.peer.up or self.error or self._closed.is_set(), wait_s)
            if self.peer.up:
                return self.peer
            if self.error is not None:
                raise self.error
            where = ", ".join(handshake.format_address(address) for address in self._addresses)
            last = self._failure
            raise UnreachableError(
                f"no link after {wait_s:.0f} s" + (f": {last.message}" if last else ""),
                where=(last.where if last else None) or where,
                hint=(last.hint if last else None) or "is the server running, and is its port open to us?",
            )

    def close(self) -> None:
        """Sends what is queued (for a second at most) and hangs up; `on_down` has run when it returns."""
        self._closed.set()
        self.peer.drop("closed")
        with self._changed:
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(10.0)
        self.peer.exchange.settle_all()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        turn, failures = 0, 0
        while not self._closed.is_set():
            address = self._addresses[turn % len(self._addresses)]
            try:
                link = self._connect(address)
            except AuthError as error:
                self._refused(error)
                return
            except UnreachableError as error:
                self._failure = error
                turn, failures = turn + 1, failures + 1
                longest_s = min(self._timing.backoff_s, _FIRST_PAUSE_S * 2 ** min(failures, 16))
                self._closed.wait(longest_s * self._jitter.uniform(0.5, 1.0))
                continue
            failures = 0
            if self._closed.is_set():
                link.end("closed")
            self.peer.serve(link, announce=True, on_up=self._notify)
            turn += link.asked_to_end

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _refused(self, error: AuthError) -> None:
        self.error = error
        self._notify()
        self._handler.on_down(self.peer, str(error))

    def _connect(self, address: Address) -> Link:
        """A link with all its connections. Raises AuthError or UnreachableError, everything closed again."""
        channel, welcome, skew_s = handshake.call(address, self._tls, self._hello, self._timing)
        link = Link(self.peer.exchange, channel, self._hello.streams, self._timing)
        link.id, link.clock_offset_s = welcome.link, skew_s
        roles: list[tuple[Role, int]] = [
            (role, stream) for stream in range(self._hello.streams) for role in ("up", "down")
        ]
        self.peer.take_over(link, self._timing.handshake_s)
        if welcome.session != self._server:
            self._server = welcome.session
            self.peer.exchange.forget_sender()
        with ThreadPoolExecutor(len(roles), thread_name_prefix="wire-dial") as pool:
            dials = [pool.submit(self._dial_stream, address, link, role, stream) for role, stream in roles]
        errors = [error for dial in dials if (error := dial.exception()) is not None]
        if errors:
            link.end("a stream could not be opened")
            self.peer.serve(link, announce=False)
            raise errors[0] if isinstance(errors[0], IsthmusError) else UnreachableError(str(errors[0]))
        return link

    def _dial_stream(self, address: Address, link: Link, role: Role, stream: int) -> None:
        hello = msgspec.structs.replace(self._hello, role=role, stream=stream, link=link.id, body=b"")
        channel, _, _ = handshake.call(address, self._tls, hello, self._timing)
        if not link.attach(role, stream, channel, sends=role == "up"):
            channel.close()
            raise UnreachableError("the link ended while its streams were dialled")
