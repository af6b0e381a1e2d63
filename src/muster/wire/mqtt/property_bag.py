"""The property bag at the end of a topic: `key=value` pairs joined by `&` (hub-device.md 2.4).

Telemetry topics end in one, so do cloud-to-device topics; the `?$rid=…&$version=…` of twins,
methods and provisioning is one with a leading question mark. System properties have keys that
begin with `$.` (`$.mid`, `$.ct`); on the wire they come as `$.mid` or as `%24.mid` and are the
same afterwards. They leave as `%24.mid` only, since the C SDK compares with that literally.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_to_bytes

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch

if TYPE_CHECKING:
    from collections.abc import Iterable


def decode(text: str) -> list[tuple[str, str | None]]:
    """Return the properties in the order of the text, repetitions included.

    `key` alone has the value None, `key=` the empty string. A leading `?` and a trailing `/`, which
    Node puts after its last value, are not part of the bag. `+` is a plus sign, not a space. Any
    text can be read: a `%` without two hexadecimal digits stands for itself, and bytes that are
    not UTF-8 become U+FFFD.
    """
    bag = text.removeprefix("?").removesuffix("/")
    properties: list[tuple[str, str | None]] = []
    for pair in bag.split("&"):
        if pair:
            key, equals, value = pair.partition("=")
            properties.append((_unescape(key), _unescape(value) if equals else None))
    return properties


def encode(properties: Iterable[tuple[str, str | None]]) -> str:
    """Return the properties as a bag, everything but RFC 3986 unreserved characters escaped.

    An empty key without a value has no form in a bag and is left out. Half a surrogate pair, which
    JSON can carry and UTF-8 cannot, becomes `?`.
    """
    return "&".join(
        _escape(key) if value is None else f"{_escape(key)}={_escape(value)}"
        for key, value in properties
        if key or value is not None
    )


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    # `urllib.parse.unquote` says the same in twice the time. Text may hold half a surrogate pair.
    return unquote_to_bytes(text.encode(errors="surrogatepass")).decode(errors="replace")


def _escape(text: str) -> str:
    # Most of what is written has nothing to escape, and this is seen in a third of the time.
    return text if _UNRESERVED(text) else quote(text, safe="", errors="replace")
