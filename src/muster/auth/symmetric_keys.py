"""Symmetric keys: base64 text outside, bytes inside, and the derivation for enrollment groups.

Source: dps.md 2.2, hub-device.md 5.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING, Final

import msgspec

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from muster.ids import Randomness

MIN_KEY_SIZE: Final = 16
"""Bytes of the shortest key the services take."""
MAX_KEY_SIZE: Final = 64
"""Bytes of the longest one, and of a generated one."""


class SymmetricKeys(msgspec.Struct, frozen=True):
    """A pair of equally good keys, base64; two so that one can be replaced while the other works.

    Attributes:
        primary: base64 of 16 to 64 bytes.
        secondary: base64 of 16 to 64 bytes.
    """

    primary: str
    secondary: str

    def __repr__(self) -> str:
        return "SymmetricKeys(primary=***, secondary=***)"


def generate(randomness: Randomness) -> SymmetricKeys:
    """Return a fresh pair of 64-byte keys."""
    return SymmetricKeys(randomness.key(), randomness.key())


def decode(key: str) -> bytes:
    """Return the bytes of a base64 key of 16 to 64 bytes. Missing padding is tolerated.

    Raises:
        InvalidArgumentError: not base64, or too short or long; code `invalid-key`.
    """
    try:
        raw = binascii.a2b_base64(key + "=" * (-len(key) % 4), strict_mode=True)
    except ValueError:
        raise InvalidArgumentError(
            "A symmetric key must be base64 text", code="invalid-key"
        ) from None
    if not MIN_KEY_SIZE <= len(raw) <= MAX_KEY_SIZE:
        raise InvalidArgumentError(
            f"A symmetric key must be {MIN_KEY_SIZE} to {MAX_KEY_SIZE} bytes long, "
            f"this one is {len(raw)}",
            code="invalid-key",
        )
    return raw


def encode(raw: bytes) -> str:
    """Return key bytes as base64 text."""
    return base64.b64encode(raw).decode()


def derive(group_key: bytes, registration_id: str) -> bytes:
    """Return the 32-byte key of one device of an enrollment group.

    Args:
        group_key: the decoded primary or secondary key of the group.
        registration_id: in the spelling the device's maker used: the derivation knows no case.
    """
    return hmac.digest(group_key, registration_id.encode(), "sha256")
