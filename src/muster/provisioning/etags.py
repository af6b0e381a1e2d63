"""Comparing etags the lenient way the clients need.

Clients send an etag raw, quoted, with `W/`, or as the base64 text around a quoted GUID; all of them
mean the same (dps.md 3.3).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

ANY: Final = "*"


def plain(etag: str) -> str:
    """Return the bare form of an etag, by which two spellings can be compared."""
    text = etag.strip()
    text = text[2:] if text.startswith(("W/", "w/")) else text
    text = text.strip().strip('"')
    try:
        decoded = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return text
    return decoded.strip('"') if decoded.startswith('"') else text


def matches(if_match: str, etag: str) -> bool:
    """Tell whether an `If-Match` value holds for an etag; `*` always does."""
    asked = plain(if_match)
    return asked == ANY or asked == plain(etag)
