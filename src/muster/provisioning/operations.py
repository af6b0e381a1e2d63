"""Operation IDs that need no storage.

`5.{16 hex}.{guid}` looks like the real service's (dps.md 1.6). The hex is a keyed digest over the
registration and the GUID, so any node and any later run can tell that an operation belongs to a
registration. The GUID's first eight digits are the second it began.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, final

from muster.auth.keyring import Keyring
from muster.clock import Clock
from muster.errors import NotFoundError
from muster.ids import Randomness, registration_key

_FORM: Final = re.compile(
    r"5\.([0-9a-f]{16})\.(([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)


@final
class OperationIds:
    """Makes and reads operation IDs."""

    def __init__(self, keyring: Keyring, clock: Clock, randomness: Randomness) -> None:
        self._key = keyring.subkey("operations")
        self._clock = clock
        self._randomness = randomness

    def new(self, registration_id: str) -> str:
        """Return the ID of an operation that begins now."""
        guid = f"{int(self._clock.time()):08x}{self._randomness.uuid()[8:]}"
        return f"5.{self._digest(registration_id, guid)}.{guid}"

    def began_at(self, operation_id: str, registration_id: str) -> int:
        """Return when an operation began, in unix seconds.

        Raises:
            NotFoundError: it is not an operation of this registration; code
                `operation-not-found`.
        """
        found = _FORM.fullmatch(operation_id)
        if found is None or not hmac.compare_digest(
            found[1], self._digest(registration_id, found[2])
        ):
            raise operation_not_found(registration_id)
        return int(found[3], 16)

    def _digest(self, registration_id: str, guid: str) -> str:
        text = f"{registration_key(registration_id)}\n{guid}".encode()
        return hashlib.blake2b(text, key=self._key, digest_size=8).hexdigest()


def operation_not_found(registration_id: str) -> NotFoundError:
    """Return the error for an operation that is not known (any more)."""
    return NotFoundError(
        "Operation not found.", code="operation-not-found", subject=registration_id
    )
