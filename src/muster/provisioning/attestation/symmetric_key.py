"""Proof by a symmetric key: a SAS token signed with it (dps.md 2)."""

from __future__ import annotations

from typing import Final

from muster.auth import symmetric_keys
from muster.auth.sas_token import SasToken, signed_by
from muster.auth.symmetric_keys import SymmetricKeys
from muster.model.enrollment import SYMMETRIC_KEY, AttestationMechanism

SLOTS: Final = ("primary", "secondary")


class SymmetricKeyAttestation:
    """An individual enrollment's own key, or one derived from its group's key."""

    type = SYMMETRIC_KEY

    def check(self, mechanism: AttestationMechanism) -> None:
        """Check the keys that are given; absent ones are made by the service."""
        given = mechanism.symmetric_key
        for key in (given.primary_key, given.secondary_key) if given else ():
            if key:
                symmetric_keys.decode(key)

    def own_key(self, token: SasToken, keys: SymmetricKeys) -> str | None:
        """Return which key signed; both are always valid (dps.md 2.2)."""
        for slot, key in zip(SLOTS, (keys.primary, keys.secondary), strict=True):
            if signed_by(token, symmetric_keys.decode(key)):
                return slot
        return None

    def derived_key(
        self, token: SasToken, group_keys: tuple[bytes, bytes], registration_id: str
    ) -> str | None:
        """Try the ID as presented, then in lower case (dps.md 2.2)."""
        spellings = dict.fromkeys((registration_id, registration_id.lower()))
        for slot, key in zip(SLOTS, group_keys, strict=True):
            for spelling in spellings:
                if signed_by(token, symmetric_keys.derive(key, spelling)):
                    return slot
        return None
