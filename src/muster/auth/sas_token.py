"""Shared access signature tokens: read them, check them, write them.

A token is `SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={key name}]` with
its parameters in any order. The signature is HMAC-SHA256 over the text of `sr` *exactly as it was
sent*, a line feed and the text of `se`: clients differ in case and in what they percent-encode, so
`sr` is never decoded and encoded again before the check. Sources: dps.md 0.1 and 2.1,
hub-device.md 5, hub-service.md 0.2.

Everything here is a pure function of its arguments. Nothing here ever puts a signature or a key
in an error or a `repr`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from muster.errors import UnauthorizedError

CLOCK_SKEW_S: Final = 300
"""Seconds a token outlives its expiry, for devices whose clock is late (hub-device.md 5)."""

SCHEME: Final = "SharedAccessSignature"

_PREFIX: Final = SCHEME.lower() + " "
_PREFIX_LENGTH: Final = len(_PREFIX)
_USUAL: Final = re.compile(
    r"(?i:sharedaccesssignature) sr=([^&]+)&sig=([^&]+)&se=([0-9]{1,12})(?:&skn=([^&]*))?"
).fullmatch
"""The order nearly all clients use, in one step; every other one goes through `_parameters`."""
_MAX_LENGTH: Final = 4096
"""Characters. The longest resource (host, device and module ID, escaped) needs about 1200."""
_MAX_EXPIRY_DIGITS: Final = 12
_MAX_EXPIRY: Final = 253_402_300_799
"""The end of the year 9999. What lies beyond was meant in milliseconds or is not a time."""


class SasToken(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A parsed token; not yet known to be genuine.

    Attributes:
        raw_sr: the resource exactly as sent, still percent-encoded.
        resource: the resource with its percent-escapes decoded once.
        signature: what the sender claims; never shown.
        expiry: unix seconds.
        key_name: the policy (`skn`), or `None` when absent or empty.
        signed: the bytes the signature is about.
    """

    raw_sr: str
    resource: str
    signature: bytes
    expiry: int
    key_name: str | None
    signed: bytes

    def __repr__(self) -> str:
        return (
            f"SasToken(resource={self.resource!r}, expiry={self.expiry}, "
            f"key_name={self.key_name!r}, signature=***)"
        )


def parse(text: str) -> SasToken:
    """Read a token.

    Tolerated, because real clients do it: any order of parameters, any case of the scheme word,
    lower-case hex, an unescaped `/`, `+` or `=` in the signature, an empty `skn`, parameters that
    are not known.

    Raises:
        UnauthorizedError: not such a token; code `malformed-token`.
    """
    if len(text) > _MAX_LENGTH or not text.isascii():
        raise _malformed("it is too long or not plain ASCII")
    usual = _USUAL(text)
    if usual is not None:
        raw_sr, signature_text, expiry_text, key_name = usual.groups()
    else:
        raw_sr, signature_text, expiry_text, key_name = _parameters(text)
    expiry = int(expiry_text)
    if expiry > _MAX_EXPIRY:
        raise _malformed("se is not a time in unix seconds")
    try:
        signature = binascii.a2b_base64(_unescape(signature_text), strict_mode=True)
    except ValueError:
        raise _malformed("sig is not base64") from None
    return SasToken(
        raw_sr,
        _unescape(raw_sr),
        signature,
        expiry,
        _unescape(key_name) if key_name else None,
        f"{raw_sr}\n{expiry_text}".encode(),
    )


def signed_by(token: SasToken, key: bytes) -> bool:
    """Tell, in constant time, whether the token was signed with this key.

    Args:
        token: what was received.
        key: the raw key bytes. Hub and DPS tokens are signed with the base64-decoded key
            (`symmetric_keys.decode`); hub-service.md 0.2 has the makers that do otherwise.
    """
    return hmac.compare_digest(hmac.digest(key, token.signed, "sha256"), token.signature)


def expired_for_s(token: SasToken, now: float, skew_s: int = CLOCK_SKEW_S) -> float | None:
    """Return by how many seconds the token is expired, or `None` while it is good.

    Args:
        token: what was received.
        now: unix seconds.
        skew_s: seconds of grace. The result counts from the expiry itself, not from the end of
            the grace.
    """
    late = now - token.expiry
    return late if late > skew_s else None


def sign(resource: str, key: bytes, expiry: int, key_name: str | None = None) -> str:
    """Write a token as the Azure SDKs do, with every reserved character escaped as `%2F`.

    Args:
        resource: the resource in plain text, for example `hub.example/devices/d1`.
        key: raw key bytes.
        expiry: unix seconds.
        key_name: name of the policy the key belongs to; `None` for a device's own key.
    """
    raw_sr = quote(resource, safe="")
    signature = base64.b64encode(hmac.digest(key, f"{raw_sr}\n{expiry}".encode(), "sha256"))
    token = f"{SCHEME} sr={raw_sr}&sig={quote(signature, safe='')}&se={expiry}"
    return token if key_name is None else f"{token}&skn={quote(key_name, safe='')}"


def _parameters(text: str) -> tuple[str, str, str, str | None]:
    """Take a token apart whatever its order: sr, sig, se and skn as sent."""
    if text[:_PREFIX_LENGTH].lower() != _PREFIX:
        raise _malformed(f"it does not start with '{SCHEME} '")
    fields: dict[str, str] = {}
    for part in text[_PREFIX_LENGTH:].split("&"):
        name, _, value = part.partition("=")
        if name in fields:
            raise _malformed("a parameter is given twice")
        fields[name] = value
    raw_sr, signature, expiry = (fields.get(name) for name in ("sr", "sig", "se"))
    if not raw_sr or not signature or not expiry:
        raise _malformed("sr, sig or se is missing")
    # The text is ASCII, so isdigit() means 0 to 9; int() alone would also take signs and spaces.
    if not expiry.isdigit() or len(expiry) > _MAX_EXPIRY_DIGITS:
        raise _malformed("se is not a whole number of unix seconds")
    return raw_sr, signature, expiry, fields.get("skn")


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    # Hardly anything else occurs in resources and signatures, and these replacements cost a
    # fraction of a general decode. Where an escape is left, or was none, that one decides.
    quick = text.replace("%2F", "/").replace("%3D", "=").replace("%2B", "+")
    if "%" in quick:
        quick = quick.replace("%2f", "/").replace("%3d", "=").replace("%2b", "+")
    return unquote(text) if "%" in quick else quick


def _malformed(reason: str) -> UnauthorizedError:
    return UnauthorizedError(f"The SAS token is malformed: {reason}", code="malformed-token")
