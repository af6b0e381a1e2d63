"""How a device-to-cloud message is kept in the telemetry log: one documented, versioned format.

Version 1, numbers big-endian:

```
stamp   u8  version, 1
        u8  message source, an index into `SOURCES`
        u8  how the sender authenticated, an index into `AUTH_SCOPES`
        u8  length | device ID
        u8  length | module ID (empty for the device itself)
        u8  length | generation ID of the sender
        u16 length | Plug and Play model ID (empty for none)
head    u8  flags: 1 = MQTT RETAIN was set, 2 = it is the will of a connection that died
        u16 length | property bag exactly as the client sent it (hub-device.md 2.4)
body    the rest
```

The stamp is the same for all messages of a connection and made once; the property bag is copied,
not decoded: readers decode what they read, and most messages are read seldom or never. The moment
of arrival and the sequence number belong to the log's own record, not to this one.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, final

from msgspec import Struct

VERSION: Final = 1

SOURCES: Final = ("Telemetry",)
"""Values of `iothub-message-source`."""

FLAG_RETAIN: Final = 1
FLAG_WILL: Final = 2

MAX_MESSAGE_SIZE: Final = 262_144
"""Bytes of body and properties together (hub-device.md 2.2 and 9)."""
MAX_BAG_SIZE: Final = 0xFFFF

_HEAD: Final = struct.Struct(">BH")
_pack_head: Final = _HEAD.pack


class AuthScope(enum.StrEnum):
    """Whose key the sender's token was signed with."""

    DEVICE = "device"
    MODULE = "module"
    HUB = "hub"


AUTH_SCOPES: Final = tuple(AuthScope)

_AUTH_METHODS: Final = {
    scope: f'{{"scope":"{scope}","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}}'
    for scope in AuthScope
}


class Stamp(Struct, frozen=True):
    """What the service itself says about a message: who sent it, and how that was proven.

    Attributes:
        device_id: the authenticated device.
        module_id: the authenticated module, empty for the device itself.
        generation_id: tells identities of the same name apart that replaced each other.
        auth_scope: whose key it was.
        model_id: announced at connect, empty for none; becomes `dt-dataschema`.
        source: one of `SOURCES`.
    """

    device_id: str
    module_id: str
    generation_id: str
    auth_scope: AuthScope
    model_id: str = ""
    source: str = SOURCES[0]

    @property
    def auth_method(self) -> str:
        """The JSON text of `iothub-connection-auth-method` (hub-device.md 5)."""
        return _AUTH_METHODS[self.auth_scope]


@final
class Message(Struct, frozen=True):
    """A message as it was stored.

    Attributes:
        stamp: who sent it.
        retain: MQTT RETAIN was set.
        will: it is the will of a connection that died.
        bag: the property bag as sent.
        body: as sent.
    """

    stamp: Stamp
    retain: bool
    will: bool
    bag: str
    body: bytes


def encode_stamp(stamp: Stamp) -> bytes:
    """Return the first part of a record, the same for every message of a connection.

    Raises:
        OverflowError: a text is too long; identities and model IDs are checked long before.
    """
    parts = [
        bytes((VERSION, SOURCES.index(stamp.source), AUTH_SCOPES.index(stamp.auth_scope))),
    ]
    for text in (stamp.device_id, stamp.module_id, stamp.generation_id):
        raw = text.encode()
        parts += (len(raw).to_bytes(1), raw)
    raw = stamp.model_id.encode()
    parts += (len(raw).to_bytes(2), raw)
    return b"".join(parts)


def encode_head(bag: str, flags: int = 0) -> bytes:
    """Return the part between stamp and body; `flags` are `FLAG_…`."""
    raw = bag.encode()
    return _pack_head(flags, len(raw)) + raw


def decode(record: bytes) -> Message:
    """Read a record: `encode_stamp(...) + encode_head(...) + body`.

    Raises:
        ValueError: not a record of a version this code knows.
    """
    if len(record) < 3 or record[0] != VERSION:
        raise ValueError("not a message record of a known version")
    if record[1] >= len(SOURCES) or record[2] >= len(AUTH_SCOPES):
        raise ValueError("a message record with an unknown source or scope")
    device_id, at = _text(record, 3, 1)
    module_id, at = _text(record, at, 1)
    generation_id, at = _text(record, at, 1)
    model_id, at = _text(record, at, 2)
    flags = record[at : at + 1]
    bag, at = _text(record, at + 1, 2)
    return Message(
        Stamp(
            device_id,
            module_id,
            generation_id,
            AUTH_SCOPES[record[2]],
            model_id,
            SOURCES[record[1]],
        ),
        bool(flags[0] & FLAG_RETAIN),
        bool(flags[0] & FLAG_WILL),
        bag,
        record[at:],
    )


def _text(record: bytes, at: int, width: int) -> tuple[str, int]:
    """Read a text with its length in front; return it and where it ends."""
    start = at + width
    end = start + int.from_bytes(record[at:start])
    if end > len(record) or start > len(record):
        raise ValueError("a message record ends too early")
    return record[start:end].decode(), end
