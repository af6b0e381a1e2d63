"""How an identity proves who it is, as the hub's JSON says it (edge.md 2.4, 6.4)."""

from __future__ import annotations

import msgspec

from muster.auth import symmetric_keys


class Keys(msgspec.Struct, rename="camel", frozen=True):
    """A pair of symmetric keys, base64."""

    primary_key: str | None = None
    secondary_key: str | None = None

    def __repr__(self) -> str:
        return "Keys(***)"

    @classmethod
    def of(cls, primary: bytes, secondary: bytes) -> Keys:
        """Return the pair of these raw keys."""
        return cls(symmetric_keys.encode(primary), symmetric_keys.encode(secondary))


class Thumbprints(msgspec.Struct, rename="camel", frozen=True):
    """Thumbprints of client certificates, hexadecimal."""

    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None


class Authentication(msgspec.Struct, rename="camel", frozen=True):
    """The proof that an identity is to give.

    Attributes:
        type: `none`, `sas`, `selfSigned`, `certificateAuthority`.
        symmetric_key: for `sas`.
        x509_thumbprint: for `selfSigned`.
    """

    type: str = "none"
    symmetric_key: Keys | None = None
    x509_thumbprint: Thumbprints | None = msgspec.field(default=None, name="x509Thumbprint")
