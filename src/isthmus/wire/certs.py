"""Certificates and tokens: one private authority per fleet, one folder per party.

    DIR/ca.key  ca.pem                       stays with whoever runs the fleet
    DIR/server/ ca.pem cert.pem key.pem tokens.json
    DIR/<site>/ ca.pem cert.pem key.pem token

A folder is all its party needs: copy DIR/<site> to the site, and nothing else. Keys and tokens have mode
0600."""

import datetime
import hashlib
import ipaddress
import json
import os
import re
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.errors import InputError, StorageError

SERVER = "server"
STANDBY = "standby"
"""Certificate by which a standby server dials the server; no site has this name."""
SERVER_DNS = "isthmus-server"
"""The name every server certificate carries, so that sites may reach it by any address, or through a
relay."""
NODE_DNS = "isthmus-node"
"""The name every site's certificate carries, by which the site's nodes know each other. A site cannot pass
for the server: its certificate lacks the server's name."""
LEAF_DAYS = 825
CA_DAYS = 3650
_EARLIER = datetime.timedelta(days=1)
"""Certificates are dated back by this, so that a site whose clock is a little behind accepts a new one."""
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def init(folder: Path, sites: list[str], server_hosts: list[str], now: datetime.datetime) -> list[Path]:
    """Makes what is missing in `folder`: the authority, the server's certificate, one per site, and tokens.

    What exists is kept, so a site can be added later: its token then joins the server's list. Returns the
    folders made. Raises InputError on a bad site name, StorageError where the disk refuses.
    """
    for site in sites:
        if not _SITE_NAME.fullmatch(site) or site == SERVER:
            raise InputError(
                f"'{site}' is no name for a site",
                where="--site",
                hint=f"letters, digits, '.', '_' and '-', at most 63, and not '{SERVER}'",
            )
    try:
        authority = _Authority(folder, now)
        made = []
        if not (folder / SERVER / "cert.pem").exists():
            made.append(authority.issue(SERVER, [SERVER_DNS, *server_hosts]))
        for site in sites:
            if not (folder / site / "cert.pem").exists():
                made.append(authority.issue(site, []))
                _write_secret(folder / site / "token", secrets.token_urlsafe(32).encode())
        tokens = {site: token_hash(folder / site) for site in site_names(folder)}
        _write_secret(folder / SERVER / "tokens.json", json.dumps(tokens, indent=1).encode())
    except OSError as error:
        raise StorageError(
            f"cannot write certificates: {error.strerror}",
            where=str(error.filename or folder),
            hint="choose a folder that you may write to",
        ) from None
    return made


def site_names(folder: Path) -> list[str]:
    """Sites that have a token below `folder`, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/token"))


def token_hash(folder: Path) -> str:
    """What the server stores of a site's token: SHA-256 in hex."""
    return hashlib.sha256((folder / "token").read_bytes().strip()).hexdigest()


def describe(folder: Path) -> list[dict[str, str]]:
    """One row per certificate below `folder`: name, role, valid_from, valid_to, fingerprint, key_mode."""
    rows = []
    for path in sorted([*folder.glob("ca.pem"), *folder.glob("cert.pem"), *folder.glob("*/cert.pem")]):
        certificate = read_certificate(path)
        key = path.with_name("ca.key" if path.name == "ca.pem" else "key.pem")
        rows.append(
            {
                "name": common_name(certificate),
                "role": _role(certificate),
                "valid_from": certificate.not_valid_before_utc.isoformat(),
                "valid_to": certificate.not_valid_after_utc.isoformat(),
                "fingerprint": certificate.fingerprint(hashes.SHA256()).hex()[:32],
                "key_mode": oct(key.stat().st_mode & 0o777) if key.exists() else "absent",
            }
        )
    return sorted(rows, key=lambda row: row["name"])


def read_certificate(path: Path) -> x509.Certificate:
    """Raises InputError if the file is missing or no certificate."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a PEM certificate"
        raise InputError(
            f"cannot read the certificate: {reason}",
            where=str(path),
            hint="make certificates with `isthmus certs init DIR --site NAME` and copy DIR/NAME here",
        ) from None


def common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _role(certificate: x509.Certificate) -> str:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "authority"
    return "site" if ExtendedKeyUsageOID.CLIENT_AUTH in usage else "server"


def is_for_nodes(certificate: x509.Certificate) -> bool:
    """Whether it serves for lines between nodes; those that were made first do not."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return NODE_DNS in names.get_values_for_type(x509.DNSName)


class _Authority:
    """The fleet's own certificate authority, made where it does not exist yet."""

    def __init__(self, folder: Path, now: datetime.datetime):
        self._folder, self._now = folder, now
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "ca.key").exists():
            self.certificate = read_certificate(folder / "ca.pem")
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise InputError(
                    "the authority's key is not an elliptic curve key", where=str(folder / "ca.key")
                )
            self._key = key
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("isthmus authority")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        self.certificate = (
            self._builder(name, name, self._key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        _write_secret(folder / "ca.key", _pem_key(self._key))
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: list[str]) -> Path:
        """Writes the folder of a server (it has hosts) or a site (it has none)."""
        folder = self._folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
        if not hosts:
            purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            self._builder(_name(name), self.certificate.subject, key.public_key(), LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(authority_key, critical=False)
        )
        names = [_general_name(host) for host in hosts or [NODE_DNS]]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write_secret(folder / "key.pem", _pem_key(key))
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return folder

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _EARLIER)
            .not_valid_after(self._now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, data: bytes) -> None:
    """Writes with mode 0600 from the first byte on, replacing the file in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
