"""Identifiers and randomness: the one way in for both, so that tests can hold them still."""

from __future__ import annotations

import base64
import os
import re
from typing import Final

from muster.errors import InvalidArgumentError

_REGISTRATION_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9-])?")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9\-.+%_#*?!(),:=@;$']{1,128}")
# Version 4 and variant 1 of RFC 9562.
_GUID_MASK: Final = ~(0xF000 << 64 | 0xC000 << 48)
_GUID_VERSION: Final = 0x4000 << 64 | 0x8000 << 48


class Randomness:
    """Source of everything unpredictable. Tests pass a subclass that counts instead."""

    def token_bytes(self, size: int) -> bytes:
        """Return `size` unpredictable bytes."""
        return os.urandom(size)

    def uuid(self) -> str:
        """Return a random GUID (version 4) in its canonical lower-case form."""
        # A third of what `uuid.UUID` takes.
        number = int.from_bytes(self.token_bytes(16), "big") & _GUID_MASK | _GUID_VERSION
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def key(self) -> str:
        """Return a fresh symmetric key: 64 bytes, base64 (dps.md 2.2)."""
        return base64.b64encode(self.token_bytes(64)).decode()

    def etag(self) -> str:
        """Return a fresh etag in the services' form: base64 of a quoted GUID (dps.md 1.6)."""
        return base64.b64encode(f'"{self.uuid()}"'.encode()).decode()


def registration_key(registration_id: str) -> str:
    """Return the form under which a registration ID or enrollment group ID is unique.

    The IDs are case-insensitive but keep their spelling (dps.md 2.3).
    """
    return registration_id.lower()


def check_registration_id(registration_id: str, what: str = "registrationId") -> str:
    """Return the ID when it keeps the rule of dps.md 2.3.

    Raises:
        InvalidArgumentError: it does not; code `invalid-registration-id`.
    """
    if not _REGISTRATION_ID.fullmatch(registration_id):
        raise InvalidArgumentError(
            f"Invalid {what[0].upper()}{what[1:]}",
            code="invalid-registration-id",
            subject=registration_id[:128],
        )
    return registration_id


def check_device_id(device_id: str, what: str = "deviceId") -> str:
    """Return the device or module ID when it keeps the rule of hub-device.md 6.

    Raises:
        InvalidArgumentError: it does not; code `invalid-device-id`.
    """
    if not _DEVICE_ID.fullmatch(device_id):
        raise InvalidArgumentError(
            f"Invalid {what}: 1 to 128 of A-Z a-z 0-9 - . + % _ # * ? ! ( ) , : = @ ; $ '",
            code="invalid-device-id",
            subject=device_id[:128],
        )
    return device_id
