"""What SASL mechanisms say in their responses.

The exchange itself is part of the connection (5.3); which mechanisms are offered and what is
checked is up to its owner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, final

ANONYMOUS: Final = "ANONYMOUS"
EXTERNAL: Final = "EXTERNAL"
MSSBCBS: Final = "MSSBCBS"
"""What uamqp and the C SDK ask for: nothing is said here, tokens follow over `$cbs`."""
PLAIN: Final = "PLAIN"

MECHANISMS: Final = (MSSBCBS, PLAIN, ANONYMOUS, EXTERNAL)
"""What the hub offers (hub-device.md 3.1)."""

OK: Final = 0
AUTH: Final = 1
"""Outcome: not authenticated (5.3.3.6)."""
SYS_TEMP: Final = 4
"""Outcome: cannot be told now; the client is to come again."""


@final
@dataclass(slots=True)
class PlainCredentials:
    """What mechanism PLAIN carries (RFC 4616)."""

    user: str
    password: str = field(repr=False)
    authorization_id: str = ""


def plain_credentials(response: bytes | None) -> PlainCredentials | None:
    """Return the credentials in a PLAIN response, or None if it is malformed."""
    parts = (response or b"").split(b"\0")
    if len(parts) != 3:
        return None
    try:
        authorization_id, user, password = (part.decode() for part in parts)
    except UnicodeDecodeError:
        return None
    return PlainCredentials(user, password, authorization_id)
