"""Addresses of AMQP links, in every spelling that clients use.

Sources: hub-device.md 3.3, hub-service.md 3.1.

A client writes the bare path, or the whole `amqps://host[:port]/path`; literal parts come in any
case, IDs percent-encoded (C#) or not (Node, Java, C).
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

ANY = "*"
"""In a pattern: one segment, whatever it is."""


class Address(NamedTuple):
    """A link's address.

    Attributes:
        host: of an absolute address, without port, lower case; `''` for a bare path.
        segments: of the path, decoded, in the client's spelling.
    """

    host: str
    segments: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path, without a slash in front."""
        return "/".join(self.segments)

    def match(self, pattern: str) -> tuple[str, ...] | None:
        """Return the segments that stand where a pattern has `*`; `None` when it does not fit.

        Args:
            pattern: literal parts in lower case, such as `devices/*/messages/events`.
        """
        parts = pattern.split("/")
        if len(parts) != len(self.segments):
            return None
        found: list[str] = []
        for part, segment in zip(parts, self.segments, strict=True):
            if part == ANY:
                found.append(segment)
            elif part != segment.lower():
                return None
        return tuple(found)


def parse(text: str) -> Address:
    """Read an address; anything can be read. Empty segments do not count."""
    host = ""
    scheme, separator, rest = text.partition("://")
    path = text
    if separator and "/" not in scheme:
        authority, _, path = rest.partition("/")
        # Names of users do not matter, a token says who it is.
        name = authority.rpartition("@")[2]
        before, colon, port = name.rpartition(":")
        host = (before if colon and port.isdigit() else name).lower()
    return Address(host, tuple(unquote(segment) for segment in path.split("/") if segment))
