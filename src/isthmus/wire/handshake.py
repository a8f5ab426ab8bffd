"""Both halves of the first exchange: preambles in the clear, TLS, hello and its answer."""

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass

import msgspec

from isthmus.clock import Clock, RealClock
from isthmus.errors import AuthError, UnreachableError
from isthmus.wire import frames, tls
from isthmus.wire.channel import Channel, tune
from isthmus.wire.frames import FrameError, Kind
from isthmus.wire.hello import (
    PREAMBLE_BYTES,
    WIRE_VERSION,
    Hello,
    Preamble,
    Refusal,
    Welcome,
    check_version,
    decode_preamble,
    encode_preamble,
    read_hello,
    read_refusal,
    read_welcome,
)
from isthmus.wire.tls import ClientTls, Plain, ServerTls

Address = tuple[str, int]


@dataclass(frozen=True)
class Timing:
    """How long this side waits, in seconds."""

    silence_s: float = 5.0
    """Without a sign of life for this long, a link is given up and dialled again."""
    handshake_s: float = 5.0
    dial_s: float = 3.0
    backoff_s: float = 5.0
    """Longest pause between two dials; the first is 50 ms and they double."""
    clock: Clock = RealClock()  # noqa: RUF009 - it has no state


def parse_address(text: str, where: str = "server") -> Address:
    """'host:port' or '[v6]:port'. Raises UnreachableError where that cannot be read."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UnreachableError(
            f"'{text}' is no address", where=where, hint="write host:port, for example 10.0.0.1:7700"
        )
    return host.strip("[]"), int(port)


def format_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def call(
    address: Address, party: ClientTls | Plain, hello: Hello, timing: Timing
) -> tuple[Channel, Welcome, float]:
    """Dials, proves who we are and is let in. Returns channel, welcome and (their clock - ours) in seconds.

    Raises AuthError where trying again is no use (certificate, token, version), UnreachableError elsewhere.
    """
    where = format_address(address)
    if isinstance(party, Plain):
        tls.check_plain(address[0])
    try:
        sock = socket.create_connection(address, timeout=timing.dial_s)
    except OSError as error:
        raise UnreachableError(
            f"cannot connect: {error.strerror or error}",
            where=where,
            hint="is the server running there, and may this machine dial out to that port? "
            "`isthmus check link` tells more",
        ) from None
    skew_s = 0.0
    try:
        tune(sock, hello.congestion, timing.silence_s)
        sock.settimeout(timing.handshake_s)
        sock.sendall(encode_preamble(timing.clock.wall_s()))
        preamble = _read_preamble(sock)
        skew_s = preamble.wall_s - timing.clock.wall_s()
        check_version(preamble.version, where)
        if isinstance(party, ClientTls):
            sock = party.context().wrap_socket(sock, server_hostname=tls.certs.SERVER_DNS)
        channel = Channel(sock)
        channel.send(Kind.HELLO, msgspec.msgpack.encode(hello))
        header, payload = channel.read_frame()
        if header.kind is Kind.REFUSED:
            raise read_refusal(bytes(payload)).error(where)
        if header.kind is not Kind.WELCOME:
            raise FrameError(f"{header.kind.name} instead of a welcome")
        welcome = read_welcome(bytes(payload))
        sock.settimeout(None)
        return channel, welcome, skew_s
    except ssl.SSLError as error:
        sock.close()
        refusal = tls.refusal(error, where, hello.site, skew_s)
        if refusal is not None:
            raise refusal from None
        raise UnreachableError(f"the TLS handshake broke off: {error}", where=where) from None
    except (OSError, FrameError) as error:
        sock.close()
        raise UnreachableError(
            f"no proper answer: {error}", where=where, hint="is it an isthmus server that listens there?"
        ) from None
    except UnreachableError:
        sock.close()
        raise


def answer(
    sock: socket.socket, party: ServerTls | Plain, context: ssl.SSLContext | None, timing: Timing
) -> tuple[Channel, Hello]:
    """The server's half, up to a hello whose site is proven. Raises AuthError, FrameError or OSError, the
    socket then being closed; whatever can be told to the caller has been told."""
    try:
        sock.settimeout(timing.handshake_s)
        sock.sendall(encode_preamble(timing.clock.wall_s()))
        preamble = _read_preamble(sock)
        if preamble.version != WIRE_VERSION:
            raise FrameError(f"it speaks wire version {preamble.version}, this side {WIRE_VERSION}")
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            sock.do_handshake()
        channel = Channel(sock)
        header = channel.read_header()
        if header.kind is not Kind.HELLO:
            raise FrameError(f"{header.kind.name} before a hello")
        payload = memoryview(bytearray(header.length))
        channel.read_into(payload)
        if not frames.intact(header, payload):
            raise FrameError("hello does not match its checksum")
        hello = read_hello(bytes(payload))
        tune(sock, hello.congestion, timing.silence_s)
        refusal = judge(hello, party, sock)
        if refusal is not None:
            refuse(channel, refusal)
            raise AuthError(refusal.message)
        sock.settimeout(None)
        return channel, hello
    except (OSError, FrameError):
        _let_go(sock)
        raise


def judge(hello: Hello, party: ServerTls | Plain, sock: socket.socket) -> Refusal | None:
    """Whether the site may come in: the certificate's name, then the token."""
    if isinstance(party, Plain) or not isinstance(sock, ssl.SSLSocket):
        return None
    owner = tls.peer_name(sock)
    if owner != hello.site:
        return Refusal(
            kind="auth",
            message=f"the certificate belongs to '{owner}', yet the caller says it is '{hello.site}'",
            hint="give each site its own folder of certificates",
        )
    fits = party.token_fits(hello.site, hello.token)
    if fits is None:
        return Refusal(
            kind="auth",
            message=f"the server has no token for site '{hello.site}'",
            hint=f"run `isthmus certs init DIR --site {hello.site}` and give the server its folder anew",
        )
    if not fits:
        return Refusal(
            kind="auth",
            message=f"the token of site '{hello.site}' is wrong",
            hint="copy the site's folder again from where `isthmus certs init` made it",
        )
    return None


def refuse(channel: Channel, refusal: Refusal) -> None:
    """Says no, and waits until that was read."""
    with contextlib.suppress(OSError):
        channel.send(Kind.REFUSED, msgspec.msgpack.encode(refusal))
    _let_go(channel.sock)


def welcome(channel: Channel, session: str, link: str) -> None:
    channel.send(Kind.WELCOME, msgspec.msgpack.encode(Welcome(session=session, link=link)))


def _read_preamble(sock: socket.socket) -> Preamble:
    data = bytearray()
    while len(data) < PREAMBLE_BYTES:
        piece = sock.recv(PREAMBLE_BYTES - len(data))
        if not piece:
            raise ConnectionResetError("the connection was closed at once")
        data += piece
    return decode_preamble(bytes(data))


def _let_go(sock: socket.socket) -> None:
    """Closes so that the last words (a refusal, an alert) arrive: else unread bytes reset the line."""
    deadline_s = time.monotonic() + 1.0
    with contextlib.suppress(OSError):
        sock.settimeout(0.25)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        while time.monotonic() < deadline_s and socket.socket.recv(sock, 1 << 16):
            pass
    with contextlib.suppress(OSError):
        sock.close()
