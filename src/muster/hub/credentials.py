"""The symmetric keys of identities: made, kept, shown, sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.auth import symmetric_keys
from muster.auth.symmetric_keys import SymmetricKeys
from muster.model.identity import (
    Authentication,
    AuthenticationType,
    IdentityRef,
    SymmetricKey,
    Thumbprints,
    authentication_type,
)

if TYPE_CHECKING:
    from muster.auth.keyring import Keyring
    from muster.ids import Randomness


class Credentials:
    """How one identity proves itself.

    Attributes:
        kind: the authentication type.
        keys: present exactly when the type is `sas`.
    """

    __slots__ = ("keys", "kind")

    def __init__(self, kind: AuthenticationType, keys: SymmetricKeys | None) -> None:
        self.kind = kind
        self.keys = keys

    def to_wire(self) -> Authentication:
        """Return the authentication object of the service API, every member present."""
        keys = self.keys
        pair = SymmetricKey(keys.primary, keys.secondary) if keys else SymmetricKey()
        return Authentication(pair, Thumbprints(), self.kind)


def wanted(
    authentication: Authentication | None, present: Credentials | None, randomness: Randomness
) -> Credentials:
    """Return the credentials a create or update asks for.

    Keys that are missing or empty are kept on an update and generated otherwise; Node sends empty
    strings for keys it wants generated (hub-service.md 1.2).

    Raises:
        InvalidArgumentError: codes `invalid-key`, `invalid-authentication`,
            `unsupported-authentication`.
    """
    if authentication is None:
        return present or Credentials(AuthenticationType.SAS, symmetric_keys.generate(randomness))
    kind = authentication_type(authentication)
    if kind is not AuthenticationType.SAS:
        return Credentials(kind, None)
    pair = authentication.symmetric_key or SymmetricKey()
    for key in (pair.primary_key, pair.secondary_key):
        if key:
            symmetric_keys.decode(key)
    kept = present.keys if present else None
    return Credentials(
        kind,
        SymmetricKeys(
            pair.primary_key or (kept.primary if kept else randomness.key()),
            pair.secondary_key or (kept.secondary if kept else randomness.key()),
        ),
    )


def seal(keyring: Keyring, ref: IdentityRef, keys: SymmetricKeys | None) -> bytes | None:
    """Return the key pair as it is stored: both keys sealed together, for this identity only."""
    # A space never occurs in base64.
    return keyring.seal(f"{keys.primary} {keys.secondary}", _context(ref)) if keys else None


def unseal(keyring: Keyring, ref: IdentityRef, sealed: bytes | None) -> SymmetricKeys | None:
    """Return what `seal` stored.

    Raises:
        UnavailableError: it does not open, see `Keyring.open`.
    """
    if sealed is None:
        return None
    primary, _, secondary = keyring.open(sealed, _context(ref)).partition(" ")
    return SymmetricKeys(primary, secondary)


def _context(ref: IdentityRef) -> str:
    # An ID cannot contain a slash, so no two identities share a context.
    return f"hub/{ref.hub}/{ref.device_id}/{ref.module_id}"
