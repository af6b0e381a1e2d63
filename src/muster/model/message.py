"""How a device-to-cloud message is kept in the telemetry log: one documented, versioned format.

Version 1, numbers big-endian:

```
stamp   u8  version, 1
        u8  message source, an index into `SOURCES`
        u8  how the sender authenticated, an index into `AUTH_SCOPES`
        u8  length | device ID
        u8  length | module ID (empty for the device itself)
        u8  length | generation ID of the sender
        u8  length | Plug and Play model ID (empty for none)
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

_pack_head = struct.Struct(">BH").pack
_unpack_head = struct.Struct(">BH").unpack_from
_HEAD_SIZE: Final = 3
_MAX_TEXT: Final = 255


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
        ValueError: a text is longer than 255 bytes; identities and model IDs are checked long
            before.
    """
    texts = (stamp.device_id, stamp.module_id, stamp.generation_id, stamp.model_id)
    parts = [
        bytes((VERSION, SOURCES.index(stamp.source), AUTH_SCOPES.index(stamp.auth_scope))),
    ]
    for text in texts:
        raw = text.encode()
        if len(raw) > _MAX_TEXT:
            raise ValueError("a text of the stamp is longer than 255 bytes")
        parts += (bytes((len(raw),)), raw)
    return b"".join(parts)


def encode_head(bag: str, *, retain: bool = False, will: bool = False) -> bytes:
    """Return the part between stamp and body."""
    raw = bag.encode()
    return _pack_head(retain | will << 1, len(raw)) + raw


def decode(record: bytes) -> Message:
    """Read a record: `encode_stamp(...) + encode_head(...) + body`.

    Raises:
        ValueError: not a record of a version this code knows.
    """
    if len(record) < 3 or record[0] != VERSION:
        raise ValueError("not a message record of a known version")
    if record[1] >= len(SOURCES) or record[2] >= len(AUTH_SCOPES):
        raise ValueError("a message record with an unknown source or scope")
    at = 3
    texts: list[str] = []
    for _ in range(4):
        if at >= len(record):
            raise ValueError("a message record ends in its stamp")
        end = at + 1 + record[at]
        texts.append(record[at + 1 : end].decode())
        at = end
    if at + _HEAD_SIZE > len(record):
        raise ValueError("a message record ends in its head")
    flags, size = _unpack_head(record, at)
    at += _HEAD_SIZE
    if at + size > len(record):
        raise ValueError("a message record ends in its properties")
    device_id, module_id, generation_id, model_id = texts
    return Message(
        Stamp(
            device_id,
            module_id,
            generation_id,
            AUTH_SCOPES[record[2]],
            model_id,
            SOURCES[record[1]],
        ),
        bool(flags & FLAG_RETAIN),
        bool(flags & FLAG_WILL),
        record[at : at + size].decode(),
        record[at + size :],
    )
