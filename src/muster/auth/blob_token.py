"""Shared access signatures for blobs: the query parameters of a URL that may be used without a key.

The parameters have the names Azure Storage gives them (`sr`, `sp`, `se`, `sig`), so that its
clients pass them on as they are; only this service makes and checks them.
"""

from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from muster.clock import format_time
from muster.errors import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = "2021-12-02"
"""`sv`: the version of Azure's storage API whose clients we serve."""

BLOB: Final = "b"
CONTAINER: Final = "c"

READ: Final = "r"
ADD: Final = "a"
CREATE: Final = "c"
WRITE: Final = "w"
DELETE: Final = "d"
LIST: Final = "l"
PERMISSIONS: Final = READ + ADD + CREATE + WRITE + DELETE + LIST
"""All of them, in the order in which they stand in a URL."""


class Target(NamedTuple):
    """What a URL is for.

    Attributes:
        hub: the hub's number.
        container: its name.
        blob: the name of a blob; `None` for the whole container.
    """

    hub: int
    container: str
    blob: str | None = None


def sign(key: bytes, target: Target, permissions: str, expires_at: float) -> str:
    """Return the query of a URL, without its question mark.

    Args:
        key: raw key bytes.
        target: the only blob it is good for, or all of a container.
        permissions: letters, such as `READ + WRITE`.
        expires_at: unix seconds.
    """
    resource = CONTAINER if target.blob is None else BLOB
    expiry = format_time(datetime.fromtimestamp(int(expires_at), UTC))
    signature = _signature(key, target, f"{resource}\n{permissions}\n{expiry}")
    return (
        f"sv={VERSION}&sr={resource}&sp={permissions}&se={quote(expiry, safe='')}"
        f"&sig={quote(base64.b64encode(signature), safe='')}"
    )


def check(
    query: Mapping[str, str], key: bytes, target: Target, permissions: str, now: float
) -> None:
    """Refuse a URL that may not be used, or not for this.

    Args:
        query: its parameters, decoded.
        key: raw key bytes.
        target: what is asked for.
        permissions: any one of these letters is enough.
        now: unix seconds.

    Raises:
        UnauthorizedError: codes `authorization-missing`, `wrong-blob-signature`,
            `expired-blob-token`, `missing-blob-permission`.
    """
    signed = query.get("sig")
    if not signed:
        raise UnauthorizedError("The URL has no signature.", code="authorization-missing")
    resource, granted, expiry = (query.get(name, "") for name in ("sr", "sp", "se"))
    signed_target = target if resource == BLOB else target._replace(blob=None)
    expected = _signature(key, signed_target, f"{resource}\n{granted}\n{expiry}")
    try:
        given = base64.b64decode(signed, validate=True)
    except ValueError:
        given = b""
    if resource not in {BLOB, CONTAINER} or not hmac.compare_digest(given, expected):
        raise UnauthorizedError(
            "The signature is not for this blob, or was changed.", code="wrong-blob-signature"
        )
    # What was signed is a time.
    if datetime.fromisoformat(expiry).timestamp() <= now:
        raise UnauthorizedError(f"The URL expired at {expiry}.", code="expired-blob-token")
    if not set(permissions) & set(granted):
        raise UnauthorizedError(
            f"The URL grants '{granted}'; this needs '{permissions}'.",
            code="missing-blob-permission",
        )


def _signature(key: bytes, target: Target, granted: str) -> bytes:
    # A blob's name comes last: it is the only part that may hold anything.
    text = f"{target.hub}\n{target.container}\n{granted}\n{target.blob or ''}"
    return hmac.digest(key, text.encode(), "sha256")
