"""How identities prove themselves: symmetric keys, and thumbprints of client certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.auth import symmetric_keys, thumbprints
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import InvalidArgumentError
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
        thumbprints: at least one exactly when the type is `selfSigned`.
    """

    __slots__ = ("keys", "kind", "thumbprints")

    def __init__(
        self,
        kind: AuthenticationType,
        keys: SymmetricKeys | None,
        known: Thumbprints | None = None,
    ) -> None:
        self.kind = kind
        self.keys = keys
        self.thumbprints = known or Thumbprints()

    def to_wire(self) -> Authentication:
        """Return the authentication object of the service API, every member present."""
        keys = self.keys
        pair = SymmetricKey(keys.primary, keys.secondary) if keys else SymmetricKey()
        return Authentication(pair, self.thumbprints, self.kind)

    def to_params(self, keyring: Keyring, ref: IdentityRef) -> dict[str, str | bytes | None]:
        """Return the parameters that write it into the row of an identity."""
        return {
            "auth_type": self.kind.value,
            "keys": seal(keyring, ref, self.keys),
            "primary_thumbprint": self.thumbprints.primary_thumbprint,
            "secondary_thumbprint": self.thumbprints.secondary_thumbprint,
        }

    def withdraws(self, before: Credentials) -> bool:
        """Tell whether a certificate that was good before is not any more."""
        return not _digits(before.thumbprints) <= _digits(self.thumbprints)


def wanted(
    authentication: Authentication | None, present: Credentials | None, randomness: Randomness
) -> Credentials:
    """Return the credentials a create or update asks for.

    Keys that are missing or empty are kept on an update and generated otherwise; Node sends empty
    strings for keys it wants generated (hub-service.md 1.2). Thumbprints are as they are given:
    one that is left out is withdrawn. Only an update without any keeps them.

    Raises:
        InvalidArgumentError: codes `invalid-key`, `invalid-thumbprint`, `invalid-authentication`,
            `unsupported-authentication`.
    """
    if authentication is None:
        return present or Credentials(AuthenticationType.SAS, symmetric_keys.generate(randomness))
    kind = authentication_type(authentication)
    if kind is AuthenticationType.SELF_SIGNED:
        kept = present.thumbprints if present else Thumbprints()
        return Credentials(kind, None, _thumbprints(authentication.x509_thumbprint, kept))
    if kind is not AuthenticationType.SAS:
        return Credentials(kind, None)
    pair = authentication.symmetric_key or SymmetricKey()
    for key in (pair.primary_key, pair.secondary_key):
        if key:
            symmetric_keys.decode(key)
    old = present.keys if present else None
    return Credentials(
        kind,
        SymmetricKeys(
            pair.primary_key or (old.primary if old else randomness.key()),
            pair.secondary_key or (old.secondary if old else randomness.key()),
        ),
    )


def _thumbprints(given: Thumbprints | None, kept: Thumbprints) -> Thumbprints:
    if given is None or not (given.primary_thumbprint or given.secondary_thumbprint):
        given = kept
    primary, secondary = given.primary_thumbprint, given.secondary_thumbprint
    if not (primary or secondary):
        raise InvalidArgumentError(
            "An identity of the type 'selfSigned' needs a thumbprint of its certificate, "
            "x509Thumbprint.primaryThumbprint or secondaryThumbprint",
            code="invalid-thumbprint",
        )
    return Thumbprints(
        thumbprints.clean(primary, "primaryThumbprint") if primary else None,
        thumbprints.clean(secondary, "secondaryThumbprint") if secondary else None,
    )


def _digits(known: Thumbprints) -> set[str]:
    both = (known.primary_thumbprint, known.secondary_thumbprint)
    return {each.upper() for each in both if each}


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
