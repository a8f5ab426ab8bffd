"""TLS 1.3 with certificates on both sides, and what its refusals mean in plain words."""

import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from isthmus.errors import AuthError, InputError
from isthmus.wire import certs

_TIME_CODES = {9: "is not valid yet", 10: "has expired"}
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_MAKE = "make certificates with `isthmus certs init DIR --site NAME`"


@dataclass(frozen=True)
class Plain:
    """No encryption and no proof of who speaks: between two ends of loopback only, for benchmarks."""

    name: str = "plain"


@dataclass(frozen=True)
class ServerTls:
    folder: Path

    @classmethod
    def load(cls, folder: Path | str, name: str = certs.SERVER) -> "ServerTls":
        """`folder` is what `isthmus certs init` made, or its server folder alone. Raises InputError."""
        tls = cls(_party_folder(Path(folder), name, ("cert.pem", "key.pem", "ca.pem", "tokens.json")))
        tls.context()
        return tls

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        return _fill(context, self.folder)

    def token_fits(self, site: str, token: str) -> bool | None:
        """None where the site is unknown. Read anew each time: a site may be added to a running server."""
        try:
            tokens = json.loads((self.folder / "tokens.json").read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(tokens, dict) or site not in tokens:
            return None
        given = hashlib.sha256(token.encode()).hexdigest()
        return hmac.compare_digest(given, str(tokens[site]))


@dataclass(frozen=True)
class ClientTls:
    folder: Path
    name: str
    token: str

    @classmethod
    def load(cls, folder: Path | str, name: str) -> "ClientTls":
        """`folder` is the fleet's, or the folder of site `name` alone. Raises InputError."""
        party = _party_folder(Path(folder), name, ("cert.pem", "key.pem", "ca.pem", "token"))
        owner = certs.common_name(certs.read_certificate(party / "cert.pem"))
        if owner != name:
            raise InputError(
                f"this certificate belongs to '{owner}', not to '{name}'",
                where=str(party / "cert.pem"),
                hint=f"take the folder that `isthmus certs init` made for '{name}'",
            )
        tls = cls(party, name, (party / "token").read_text().strip())
        tls.context()
        return tls

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return _fill(context, self.folder)


@dataclass(frozen=True)
class NodeTls:
    """Nodes of one site to each other: both ends show the site's certificate."""

    folder: Path
    site: str

    @classmethod
    def load(cls, folder: Path | str, site: str) -> "NodeTls":
        """`folder` is the fleet's, or the folder of the site alone. Raises InputError."""
        own = ClientTls.load(folder, site)
        if not certs.is_for_nodes(certs.read_certificate(own.folder / "cert.pem")):
            raise InputError(
                f"the certificate of '{site}' is none for nodes that speak with each other",
                where=str(own.folder / "cert.pem"),
                hint="it was made by an older isthmus: remove this folder and make it anew "
                f"(`isthmus certs init DIR --site {site}`)",
            )
        return cls(own.folder, site)

    def wrap(self, sock: socket.socket, accepted: bool) -> ssl.SSLSocket:
        """Encrypted, the handshake is still to be done."""
        if accepted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return _fill(context, self.folder).wrap_socket(
            sock,
            server_side=accepted,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=True,
            server_hostname=None if accepted else certs.NODE_DNS,
        )

    def check(self, sock: ssl.SSLSocket) -> None:
        """Raises AuthError unless the other end is of the same site."""
        owner = peer_name(sock)
        if owner != self.site:
            raise AuthError(f"the other end is of site '{owner}', not of '{self.site}'")


def _party_folder(folder: Path, name: str, needed: tuple[str, ...]) -> Path:
    party = folder / name if (folder / name).is_dir() else folder
    for file in needed:
        if not (party / file).is_file():
            raise InputError(f"'{file}' of '{name}' is missing", where=str(party), hint=_MAKE)
    return party


def _fill(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"certificate and key cannot be used: {error}", where=str(folder), hint=_MAKE
        ) from None
    return context


def peer_name(sock: ssl.SSLSocket) -> str:
    """Common name of the certificate the other side proved to own."""
    der = sock.getpeercert(binary_form=True)
    return certs.common_name(x509.load_der_x509_certificate(der)) if der else ""


def check_plain(host: str) -> None:
    """Raises InputError unless `host` is loopback."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InputError("a connection without TLS is for loopback only", where=host, hint=_MAKE)


def explain_skew(skew_s: float) -> str:
    """The other side's clock against ours, in words. `skew_s` is theirs minus ours."""
    if abs(skew_s) < 2:
        return "the two clocks agree within 2 s"
    return f"the other side's clock is {_long(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} this one"


def refusal(error: ssl.SSLError, where: str, name: str, skew_s: float) -> AuthError | None:
    """The error for a handshake that cannot succeed by trying again, None for one that may."""
    clock_hint = "set both clocks (NTP); if they are right, make new certificates with `isthmus certs init`"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _TIME_CODES:
            return AuthError(
                f"the server's certificate {_TIME_CODES[error.verify_code]} by this machine's clock; "
                + explain_skew(skew_s),
                where=where,
                hint=clock_hint,
            )
        return AuthError(
            f"the server's certificate is not from our authority ({error.verify_message})",
            where=where,
            hint="give this site the ca.pem of the fleet that the server belongs to",
        )
    reason = (error.reason or "").upper()
    if "EXPIRED" in reason or "BAD_CERTIFICATE" in reason:
        return AuthError(
            f"the server finds the certificate of '{name}' expired, not valid yet or damaged; "
            + explain_skew(skew_s),
            where=where,
            hint=clock_hint,
        )
    if any(word in reason for word in ("UNKNOWN_CA", "DECRYPT_ERROR", "CERTIFICATE", "ACCESS_DENIED")):
        return AuthError(
            f"the server does not accept the certificate of '{name}' ({error.reason})",
            where=where,
            hint="take the site's folder made by the same `isthmus certs init` as the server's",
        )
    if "PROTOCOL_VERSION" in reason or "HANDSHAKE_FAILURE" in reason:
        return AuthError(
            f"the two sides agree on no TLS version or cipher ({error.reason})",
            where=where,
            hint="TLS 1.3 is needed on both sides (OpenSSL 1.1.1 or newer)",
        )
    return None


def _long(duration_s: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if duration_s >= 2 * size:
            return f"{duration_s / size:.1f} {unit}"
    return f"{duration_s:.1f} s"
