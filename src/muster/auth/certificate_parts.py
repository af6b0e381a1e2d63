"""What certificates of ours are made of, whoever issues them (RFC 5280)."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric import ec

    from muster.ids import Randomness

BACKDATED: Final = dt.timedelta(days=1)
"""Certificates start in the past: the clocks of devices and servers are seldom equal."""
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
MAX_COMMON_NAME: Final = 64
"""Characters (RFC 5280, ub-common-name)."""


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """Return names of subject alternative names: DNS names and IP addresses, no doubles.

    Raises:
        InvalidArgumentError: no name, or one that is not a host name (code `invalid-host-name`).
    """
    wanted: list[x509.GeneralName] = []
    for given in names:
        text = given.strip().removeprefix("[").removesuffix("]").rstrip(".").lower()
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            if not _HOST_NAME.fullmatch(text):
                raise InvalidArgumentError(
                    f"{given[:255]!a} is neither a host name nor an IP address",
                    code="invalid-host-name",
                ) from None
            name = x509.DNSName(text)
        if name not in wanted:
            wanted.append(name)
    if not wanted:
        raise InvalidArgumentError(
            "A server certificate needs at least one name", code="invalid-host-name"
        )
    return wanted


def name(common_name: str) -> x509.Name:
    """Return a distinguished name of a common name alone."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Return a key usage of what is named and nothing else."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def serial_number(randomness: Randomness) -> int:
    """Return a serial number that nobody can guess."""
    # 127 random bits; the top one keeps the number positive and its length the same.
    return int.from_bytes(randomness.token_bytes(16)) >> 1 | 1 << 126


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a key: PEM, PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)
