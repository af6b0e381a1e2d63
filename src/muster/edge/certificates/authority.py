"""The CA of a device: one that was brought, or one that the device makes and renews.

What the device makes has two levels. The root lasts for ever and is what leaf devices and modules
trust. The CA below it signs everything, lives for `EdgeCa.lifetime_days` and is replaced in time,
also when the clock steps over its end, without anybody having to trust anything anew. A root whose
dates mean something would end or not have begun on a device whose clock says 1970 (users.md, 23).

A file of these that is damaged is put aside. While there is the root's key, what is made anew is
trusted by whoever trusted what was there; a root whose key is lost is replaced when the CA below it
is due, for without one nobody can connect at all.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final, TypeAlias, final

import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from muster.auth import certificate_parts as parts
from muster.auth import private_file
from muster.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import Clock
    from muster.edge.settings import EdgeCa
    from muster.ids import Randomness

SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_ROOT_START: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""Of certificates that do not end (RFC 5280, 4.1.2.5)."""
_UNUSABLE: Final = "invalid-certificate-file"
_log = structlog.get_logger(__name__)


class Issuer(msgspec.Struct, frozen=True):
    """A CA that can sign.

    Attributes:
        certificate: its own.
        key: its private key.
        chain: PEM of its certificate and of those between it and a root.
        anchors: PEM of what others must trust.
    """

    certificate: x509.Certificate
    key: SigningKey
    chain: bytes
    anchors: bytes

    def __repr__(self) -> str:
        return f"Issuer(certificate={self.certificate!r}, key=***)"


@final
class DeviceAuthority:
    """The CA of this device.

    Args:
        settings: whether one was brought.
        directory: where one that is made is kept, private.
        device_id: goes into the names of what is made.
        clock: for dates.
        randomness: for serial numbers.
    """

    def __init__(
        self,
        settings: EdgeCa,
        directory: Path,
        device_id: str,
        *,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._device_id = device_id
        self._clock = clock
        self._randomness = randomness
        self._issuer: Issuer | None = None

    @property
    def is_brought(self) -> bool:
        """Whether the CA came from files of the configuration."""
        return self._settings.certificate is not None

    def issuer(self) -> Issuer:
        """Return what signs now: made or renewed when that is due, read anew when it was brought.

        Raises:
            InvalidArgumentError: files cannot be used; code `invalid-certificate-file` or
                `exposed-key-file`.
            UnavailableError: a CA that was brought is not valid now; code `ca-not-valid`.
            OSError: a file cannot be read or written.
        """
        if self._settings.certificate is not None and self._settings.private_key is not None:
            return self._brought(self._settings.certificate, self._settings.private_key)
        issuer = self._issuer or self._kept()
        if issuer is None or self.renewal_due(issuer.certificate):
            issuer = self._renew()
        self._issuer = issuer
        return issuer

    def renewal_due(self, certificate: x509.Certificate) -> bool:
        """Tell whether a certificate of this device is to be replaced at this moment.

        It is after `EdgeCa.renew_at` of its life, and whenever the clock is outside of it.
        """
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return not start <= self._clock.now() < start + (end - start) * self._settings.renew_at

    # One that was brought.

    def _brought(self, certificate_file: Path, key_file: Path) -> Issuer:
        try:
            chain = certificate_file.read_bytes()
            certificates = x509.load_pem_x509_certificates(chain)
        except ValueError:
            raise _unusable(certificate_file, "it holds no PEM certificates") from None
        certificate, key = certificates[0], _read_key(key_file)
        if key.public_key() != certificate.public_key():
            raise _unusable(key_file, f"it is not the key of {certificate_file}")
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            is_ca = constraints.value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            raise _unusable(certificate_file, "its first certificate is not that of a CA")
        now = self._clock.now()
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise UnavailableError(
                f"The CA in {certificate_file} is valid from {certificate.not_valid_before_utc} to "
                f"{certificate.not_valid_after_utc}, and it is {now:%Y-%m-%d %H:%M:%S+00:00}",
                code="ca-not-valid",
            )
        return Issuer(certificate, key, chain, chain)

    # One that is made.

    def _kept(self) -> Issuer | None:
        """Return the CA on disk; `None` where there is none that can be used."""
        try:
            root = self._root()
            certificate = x509.load_pem_x509_certificate(self._path("ca.pem").read_bytes())
            certificate.verify_directly_issued_by(root)
            key = _read_key(self._path("ca.key"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, InvalidSignature, InvalidArgumentError) as error:
            _log.warning(
                "the device's CA cannot be used and is made anew",
                file=str(self._path("ca.pem")),
                reason=str(error),
            )
            return None
        if key.public_key() != certificate.public_key():
            return None  # the power failed between the two files
        return self._made(certificate, key, root)

    def _renew(self) -> Issuer:
        root, root_key = self._root_with_key()
        key = ec.generate_private_key(ec.SECP256R1())
        start = self._clock.now() - parts.BACKDATED
        certificate = self._sign_ca(
            f"aziot-edge CA {self._device_id}"[: parts.MAX_COMMON_NAME],
            key.public_key(),
            (start, start + parts.BACKDATED + dt.timedelta(days=self._settings.lifetime_days)),
            issuer=root,
            signing_key=root_key,
        )
        private_file.replace(self._path("ca.key"), parts.key_pem(key), 0o600)
        private_file.replace(self._path("ca.pem"), parts.certificate_pem(certificate), 0o644)
        _log.info("device CA issued", until=f"{certificate.not_valid_after_utc:%Y-%m-%d}")
        return self._made(certificate, key, root)

    def _made(
        self, certificate: x509.Certificate, key: SigningKey, root: x509.Certificate
    ) -> Issuer:
        return Issuer(
            certificate, key, parts.certificate_pem(certificate), parts.certificate_pem(root)
        )

    def _root(self) -> x509.Certificate:
        """Return the root's certificate, made when there is none that can be used.

        One that is made anew with the key of before takes its place for whoever trusts that one.

        Raises:
            InvalidArgumentError: others have access to the key's file.
        """
        path = self._path("root.pem")
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except FileNotFoundError:
            pass
        except ValueError:
            _put_aside(path, "it is no PEM certificate")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._sign_root(self._root_key())

    def _root_with_key(self) -> tuple[x509.Certificate, SigningKey]:
        """Return the root with its key; another one where the key is lost.

        Raises:
            InvalidArgumentError: see `_root`.
        """
        root, key = self._root(), self._root_key()
        if root.public_key() != key.public_key():
            _log.error("the device has a new root, which leaf devices have to trust anew")
            root = self._sign_root(key)
        return root, key

    def _sign_root(self, key: SigningKey) -> x509.Certificate:
        name = f"{self._device_id[:48]} edge root"
        root = self._sign_ca(name, key.public_key(), (_ROOT_START, _NO_END), signing_key=key)
        private_file.replace(self._path("root.pem"), parts.certificate_pem(root), 0o644)
        return root

    def _root_key(self) -> SigningKey:
        """Return the root's key, made when there is none that can be used."""
        path = self._path("root.key")
        try:
            return _read_key(path)
        except FileNotFoundError:
            pass
        except InvalidArgumentError as error:
            if error.code != _UNUSABLE:
                raise
            _put_aside(path, error.message)
        # The key goes first: after a crash in between the next start goes on from there.
        key = ec.generate_private_key(ec.SECP256R1())
        private_file.replace(path, parts.key_pem(key), 0o600)
        return key

    def _sign_ca(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        validity: tuple[dt.datetime, dt.datetime],
        *,
        signing_key: SigningKey,
        issuer: x509.Certificate | None = None,
    ) -> x509.Certificate:
        """Sign a CA certificate; its own issuer where there is none (edge.md 2.7: extensions)."""
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        name = parts.name(common_name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if issuer is None else issuer.subject)
            .public_key(public_key)
            .serial_number(parts.serial_number(self._randomness))
            .not_valid_before(validity[0])
            .not_valid_after(validity[1])
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0),
                critical=True,
            )
            .add_extension(
                parts.key_usage(digital_signature=True, key_cert_sign=True), critical=True
            )
            .add_extension(identifier, critical=False)
        )
        if issuer is not None:
            builder = builder.add_extension(authority_identifier(issuer), critical=False)
        return builder.sign(signing_key, hashes.SHA256())

    def _path(self, name: str) -> Path:
        return self._directory / name


def authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension that names the issuer's key."""
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        public_key = issuer.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # noqa: S101 - ours
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _read_key(path: Path) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(private_file.read_private(path), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _unusable(path, "it holds no unencrypted PEM key (EC or RSA)")
    return key


def _put_aside(path: Path, reason: str) -> None:
    _log.error("a certificate file is not used", file=str(path), reason=reason)
    path.replace(path.with_name(f"{path.name}.bad"))


def _unusable(path: Path, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path} cannot be used: {reason}", code=_UNUSABLE)
