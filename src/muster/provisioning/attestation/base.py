"""What every attestation mechanism is: a check of a device's evidence against an entry's secrets.

Pure: no store, no transport. A mechanism that needs a challenge (TPM) will return one instead.
"""

from __future__ import annotations

from typing import Protocol

from muster.auth.sas_token import SasToken
from muster.auth.symmetric_keys import SymmetricKeys
from muster.model.enrollment import AttestationMechanism


class Attestation(Protocol):
    """One way for a device to prove itself."""

    @property
    def type(self) -> str:
        """Its name in `attestation.type`."""

    def check(self, mechanism: AttestationMechanism) -> None:
        """Check what an operator wrote.

        Raises:
            InvalidArgumentError: it is incomplete or malformed.
        """

    def own_key(self, token: SasToken, keys: SymmetricKeys) -> str | None:
        """Return which key of an individual enrollment signed: `primary`, `secondary` or none."""

    def derived_key(
        self, token: SasToken, group_keys: tuple[bytes, bytes], registration_id: str
    ) -> str | None:
        """Return from which key of a group the signing key was derived, or none."""
