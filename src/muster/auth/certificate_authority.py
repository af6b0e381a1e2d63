"""Our own certificate authority and the server certificate it keeps fresh.

For installations without a PKI: a root made on first start (ECDSA P-256, 20 years) and one server
certificate for the names the service is reached by, at most 397 days long because clients refuse
longer ones. Devices trust `ca.pem`; the server presents `server.pem`. Profiles follow RFC 5280 as
far as `openssl verify -x509_strict` and Python's `VERIFY_X509_STRICT` check it.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.auth import certificate_parts as parts
from muster.auth import private_file
from muster.clock import Clock, SystemClock
from muster.errors import InvalidArgumentError
from muster.ids import Randomness

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROOT_LIFETIME: Final = dt.timedelta(days=20 * 365 + 5)
SERVER_LIFETIME: Final = dt.timedelta(days=397)
"""From start to end of validity."""
RENEW_BEFORE: Final = dt.timedelta(days=30)
"""How long before its end a server certificate is replaced."""


class ServerCertificate(msgspec.Struct, frozen=True):
    """Where the server's certificate and key are.

    Attributes:
        chain_file: PEM, what the server presents: its certificate. The root is not in it: who
            trusts it has it already, and it would lengthen every handshake.
        key_file: PEM (PKCS #8, not encrypted), mode 0600.
        not_after: end of validity.
        issued: whether this call made it.
    """

    chain_file: Path
    key_file: Path
    not_after: dt.datetime
    issued: bool


class CertificateAuthority:
    """The root in a directory. Get it with `load_or_create`.

    The root's private key is read only when something is to be signed.

    Attributes:
        ca_file: the root certificate, PEM, mode 0644: what devices and tools must trust.
    """

    def __init__(
        self, directory: Path, root: x509.Certificate, clock: Clock, randomness: Randomness
    ) -> None:
        self.ca_file = directory / "ca.pem"
        self._directory = directory
        self._root = root
        self._clock = clock
        self._randomness = randomness

    @classmethod
    def load_or_create(
        cls,
        directory: Path,
        *,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
    ) -> Self:
        """Return the authority in the directory, made when there is none.

        Args:
            directory: for `ca.pem`, `ca.key`, `server.pem`, `server.key`; made when absent.
            clock: for the dates of certificates.
            randomness: for serial numbers. Keys come from the cryptography library itself.

        Raises:
            InvalidArgumentError: a file there cannot be used: not a certificate or key (code
                `invalid-certificate-file`), or a key other users can read (code
                `exposed-key-file`).
        """
        clock = clock or SystemClock()
        randomness = randomness or Randomness()
        path = directory / "ca.pem"
        if path.exists():
            return cls(directory, _read_certificate(path), clock, randomness)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key goes first. After a crash in between, the next start finds it and continues.
        key_path = directory / "ca.key"
        if key_path.exists():
            key = _read_key(key_path)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            private_file.replace(key_path, parts.key_pem(key), 0o600)
        root = _make_root(key, clock.now(), randomness)
        private_file.replace(path, parts.certificate_pem(root), 0o644)
        return cls(directory, root, clock, randomness)

    @property
    def subject(self) -> str:
        """The root's common name, `Muster CA <short id>`."""
        return str(self._root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def issue_server(self, names: Iterable[str]) -> ServerCertificate:
        """Return a server certificate for these names: the present one while it is good.

        It is made anew when the names differ, 30 days before it ends, and when its files are
        missing, damaged, of another root or do not belong together.

        Args:
            names: DNS names (also with a leading `*.`) and IP addresses; order, case and
                doubles do not matter. The first DNS name becomes the common name.

        Raises:
            InvalidArgumentError: no name, or one that is not a host name (code
                `invalid-host-name`); the root's key is missing or other users can read a key
                file.
        """
        wanted = parts.general_names(names)
        chain_file, key_file = self._directory / "server.pem", self._directory / "server.key"
        present = self._present(chain_file, key_file)
        now = self._clock.now()
        if (
            present is not None
            and _names_of(present) == frozenset(wanted)
            and present.not_valid_before_utc <= now < present.not_valid_after_utc - RENEW_BEFORE
        ):
            return ServerCertificate(
                chain_file, key_file, present.not_valid_after_utc, issued=False
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign_server(key.public_key(), wanted, now)
        private_file.replace(key_file, parts.key_pem(key), 0o600)
        private_file.replace(chain_file, parts.certificate_pem(certificate), 0o644)
        return ServerCertificate(chain_file, key_file, certificate.not_valid_after_utc, issued=True)

    def _present(self, chain_file: Path, key_file: Path) -> x509.Certificate | None:
        try:
            certificate = x509.load_pem_x509_certificate(chain_file.read_bytes())
            key_text = private_file.read_private(key_file)
            key = serialization.load_pem_private_key(key_text, None)
            certificate.verify_directly_issued_by(self._root)
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
            return None
        return certificate if certificate.public_key() == key.public_key() else None

    def _sign_server(
        self,
        public_key: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        now: dt.datetime,
    ) -> x509.Certificate:
        key = _read_key(self._directory / "ca.key")
        if key.public_key() != self._root.public_key():
            raise InvalidArgumentError(
                f"{self._directory / 'ca.key'} is not the key of {self.ca_file}",
                code="invalid-certificate-file",
            )
        if now >= self._root.not_valid_after_utc - RENEW_BEFORE:
            raise InvalidArgumentError(
                f"The CA in {self.ca_file} ends on {self._root.not_valid_after_utc:%Y-%m-%d}; "
                "move ca.pem and ca.key away to get a new one, and let devices trust it",
                code="invalid-certificate-file",
            )
        start = now - parts.BACKDATED
        common_name = next(
            (name.value for name in names if isinstance(name, x509.DNSName)), str(names[0].value)
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                parts.name(common_name if len(common_name) <= parts.MAX_COMMON_NAME else "Muster")
            )
            .issuer_name(self._root.subject)
            .public_key(public_key)
            .serial_number(parts.serial_number(self._randomness))
            .not_valid_before(start)
            .not_valid_after(min(start + SERVER_LIFETIME, self._root.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(parts.key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self._root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
        )
        return builder.sign(key, hashes.SHA256())


def _make_root(
    key: ec.EllipticCurvePrivateKey, now: dt.datetime, randomness: Randomness
) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The ID tells the roots of several installations apart in a device's trust store.
    name = parts.name(f"Muster CA {identifier.digest[:4].hex()}")
    start = now - parts.BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(parts.serial_number(randomness))
        .not_valid_before(start)
        .not_valid_after(start + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(parts.key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _names_of(certificate: x509.Certificate) -> frozenset[x509.GeneralName]:
    try:
        return frozenset(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound:
        return frozenset()


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise InvalidArgumentError(
            f"{path} is not a PEM certificate", code="invalid-certificate-file"
        ) from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(private_file.read_private(path), None)
    except FileNotFoundError:
        raise InvalidArgumentError(
            f"{path} is missing, so nothing can be signed: restore it, or move ca.pem away to "
            "get a new CA, and let devices trust it",
            code="invalid-certificate-file",
        ) from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidArgumentError(
            f"{path} is not an unencrypted PEM key of an elliptic curve",
            code="invalid-certificate-file",
        )
    return key
