"""Thumbprints of client certificates: the hash by which a hub knows a certificate.

SHA-1 (40 hex digits) or SHA-256 (64) of the certificate's DER, in any case (hub-device.md 5). The
certificate itself is never stored: whoever has its private key, proven in the TLS handshake, and
presents exactly this certificate is the identity.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

_THUMBPRINT: Final = re.compile(r"(?:[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})")
# OpenSSL writes colons; the certificate dialog of Windows writes spaces and, in front of them, a
# mark that nobody sees.
_BETWEEN: Final = re.compile(r"[:\s\u200e]")


class Presented(NamedTuple):
    """Both thumbprints of one certificate, upper-case hex."""

    sha1: str
    sha256: str


def of(certificate: bytes) -> Presented:
    """Return the thumbprints of a certificate (DER)."""
    sha1 = hashlib.sha1(certificate, usedforsecurity=False).hexdigest()
    return Presented(sha1.upper(), hashlib.sha256(certificate).hexdigest().upper())


def clean(text: str, what: str) -> str:
    """Return a thumbprint without what tools put between its digits; their case stays.

    Args:
        text: as somebody wrote or copied it.
        what: its name in the error.

    Raises:
        InvalidArgumentError: it is neither SHA-1 nor SHA-256 in hex; code `invalid-thumbprint`.
    """
    digits = _BETWEEN.sub("", text)
    if not _THUMBPRINT.fullmatch(digits):
        raise InvalidArgumentError(
            f"{what} must be the SHA-1 (40 hex digits) or SHA-256 (64) of the certificate",
            code="invalid-thumbprint",
        )
    return digits


def match(presented: Presented, known: Iterable[str | None]) -> bool:
    """Tell whether a certificate is one of those known; takes as long for any that is not."""
    found = False
    for thumbprint in known:
        if thumbprint:
            wanted = thumbprint.upper()
            found |= any(hmac.compare_digest(each, wanted) for each in presented)
    return found
