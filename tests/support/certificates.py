"""Client certificates of devices: self-signed, and expired long ago, which must not matter."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate with its key.

    Attributes:
        file: PEM of both.
        certificate: PEM.
        key: PEM.
        der: of the certificate.
    """

    file: Path
    certificate: str
    key: str
    der: bytes

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.der, usedforsecurity=False).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @classmethod
    def make(
        cls, directory: Path, name: str = "device", *, rsa_key: bool = False
    ) -> ClientCertificate:
        """Make one in a file of its own; twice the same name makes two different ones."""
        key = (
            rsa.generate_private_key(65_537, 2048)
            if rsa_key
            else ec.generate_private_key(ec.SECP256R1())
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = directory / f"{name}-{certificate.serial_number}.pem"
        file.write_bytes(pem + key_pem)
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(file, pem.decode(), key_pem.decode(), der)


def self_signed(primary: str | None, secondary: str | None = None) -> dict[str, object]:
    """The authentication of a hub identity that is known by thumbprints."""
    prints = {"primaryThumbprint": primary, "secondaryThumbprint": secondary}
    return {"type": "selfSigned", "x509Thumbprint": prints}
