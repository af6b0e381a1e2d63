"""How a device-to-cloud message is kept in the telemetry log: one documented, versioned format.

Version 1, numbers big-endian:

```
stamp   u8  version, 1
        u8  message source, an index into `SOURCES`
        u8  how the sender authenticated, an index into `AUTH_SCOPES`; 255 for the service itself
        u8  length | device ID
        u8  length | module ID (empty for the device itself)
        u8  length | generation ID of the sender
        u16 length | Plug and Play model ID (empty for none)
head    u8  flags: 1 = MQTT RETAIN was set, 2 = it is the will of a connection that died
        u16 length | property bag exactly as the client sent it (hub-device.md 2.4)
body    the rest
```

Version 2 is a message that a route or an enrichment is about. It says where it goes and what is
added for each reader; everything else is as in version 1:

```
stamp, head
routing u8  number of deliveries, then for each of them
        u32 number of the endpoint, 0 for the built-in one
        u32 length | property bag of the enrichments
body
```

A message of version 1 is for the built-in endpoint, as it came. The sources of either version may
grow at the end.

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
ROUTED_VERSION: Final = 2

SOURCES: Final = (
    "Telemetry",
    "deviceConnectionStateEvents",
    "deviceLifecycleEvents",
    "twinChangeEvents",
)
"""Values of `iothub-message-source`."""
TELEMETRY: Final = SOURCES[0]

BUILT_IN: Final = 0
"""Number of the endpoint that every hub has (hub-service.md 4)."""

FLAG_RETAIN: Final = 1
FLAG_WILL: Final = 2

MAX_MESSAGE_SIZE: Final = 262_144
"""Bytes of body and properties together (hub-device.md 2.2 and 9)."""
MAX_BAG_SIZE: Final = 0xFFFF

_HEAD: Final = struct.Struct(">BH")
_pack_head: Final = _HEAD.pack
_pack_delivery: Final = struct.Struct(">II").pack


class AuthScope(enum.StrEnum):
    """How the sender proved itself: whose key its token was signed with, or whose certificate.

    New ones go to the end: records have the index.
    """

    DEVICE = "device"
    MODULE = "module"
    HUB = "hub"
    DEVICE_CERTIFICATE = "device-certificate"
    MODULE_CERTIFICATE = "module-certificate"


AUTH_SCOPES: Final = tuple(AuthScope)
_NOBODY: Final = 0xFF

_AUTH_TYPES: Final = {
    AuthScope.DEVICE: ("device", "sas"),
    AuthScope.MODULE: ("module", "sas"),
    AuthScope.HUB: ("hub", "sas"),
    AuthScope.DEVICE_CERTIFICATE: ("device", "x509"),
    AuthScope.MODULE_CERTIFICATE: ("module", "x509"),
}
_AUTH_METHODS: Final = {
    scope: f'{{"scope":"{whose}","type":"{what}","issuer":"iothub","acceptingIpFilterRule":null}}'
    for scope, (whose, what) in _AUTH_TYPES.items()
}


class Stamp(Struct, frozen=True):
    """What the service itself says about a message: who sent it, and how that was proven.

    Attributes:
        device_id: the authenticated device.
        module_id: the authenticated module, empty for the device itself.
        generation_id: tells identities of the same name apart that replaced each other.
        auth_scope: whose key or certificate it was; `None` for what the service itself says.
        model_id: announced at connect, empty for none; becomes `dt-dataschema`.
        source: one of `SOURCES`.
    """

    device_id: str
    module_id: str
    generation_id: str
    auth_scope: AuthScope | None
    model_id: str = ""
    source: str = TELEMETRY

    @property
    def auth_method(self) -> str | None:
        """The JSON text of `iothub-connection-auth-method` (hub-device.md 5)."""
        return None if self.auth_scope is None else _AUTH_METHODS[self.auth_scope]


@final
class Delivery(Struct, frozen=True):
    """That a message goes to an endpoint, and with what.

    Attributes:
        endpoint: its number, `BUILT_IN` or of one of the hub's own.
        enrichments: property bag of what is added to the message there.
    """

    endpoint: int
    enrichments: str = ""


_FOR_BUILT_IN: Final[tuple[Delivery, ...]] = (Delivery(BUILT_IN),)


@final
class Message(Struct, frozen=True):
    """A message as it was stored.

    Attributes:
        stamp: who sent it.
        retain: MQTT RETAIN was set.
        will: it is the will of a connection that died.
        bag: the property bag as sent.
        body: as sent.
        deliveries: where it goes.
    """

    stamp: Stamp
    retain: bool
    will: bool
    bag: str
    body: bytes
    deliveries: tuple[Delivery, ...] = _FOR_BUILT_IN

    def delivery(self, endpoint: int) -> Delivery | None:
        """Return what is said of an endpoint, `None` when the message does not go there."""
        return next((each for each in self.deliveries if each.endpoint == endpoint), None)


def encode_stamp(stamp: Stamp) -> bytes:
    """Return the first part of a record, the same for every message of a connection.

    Raises:
        OverflowError: a text is too long; identities and model IDs are checked long before.
    """
    scope = _NOBODY if stamp.auth_scope is None else AUTH_SCOPES.index(stamp.auth_scope)
    parts = [bytes((VERSION, SOURCES.index(stamp.source), scope))]
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


def routed(record: bytes, message: Message, deliveries: tuple[Delivery, ...]) -> bytes:
    """Return a record with what routing has decided.

    Args:
        record: of version 1.
        message: what `decode` read from it.
        deliveries: where it goes.
    """
    if deliveries == _FOR_BUILT_IN:
        return record
    body_at = len(record) - len(message.body)
    parts = [bytes((ROUTED_VERSION,)), record[1:body_at], len(deliveries).to_bytes(1)]
    for delivery in deliveries:
        raw = delivery.enrichments.encode()
        parts += (_pack_delivery(delivery.endpoint, len(raw)), raw)
    parts.append(message.body)
    return b"".join(parts)


def decode(record: bytes) -> Message:
    """Read a record: `encode_stamp(...) + encode_head(...) + body`, or what `routed` made of it.

    Raises:
        ValueError: not a record of a version this code knows.
    """
    if len(record) < 3 or record[0] not in (VERSION, ROUTED_VERSION):
        raise ValueError("not a message record of a known version")
    scope = record[2]
    if record[1] >= len(SOURCES) or (scope >= len(AUTH_SCOPES) and scope != _NOBODY):
        raise ValueError("a message record with an unknown source or scope")
    device_id, at = _text(record, 3, 1)
    module_id, at = _text(record, at, 1)
    generation_id, at = _text(record, at, 1)
    model_id, at = _text(record, at, 2)
    flags = record[at : at + 1]
    bag, at = _text(record, at + 1, 2)
    deliveries = _FOR_BUILT_IN
    if record[0] == ROUTED_VERSION:
        deliveries, at = _deliveries(record, at)
    return Message(
        Stamp(
            device_id,
            module_id,
            generation_id,
            None if scope == _NOBODY else AUTH_SCOPES[scope],
            model_id,
            SOURCES[record[1]],
        ),
        bool(flags[0] & FLAG_RETAIN),
        bool(flags[0] & FLAG_WILL),
        bag,
        record[at:],
        deliveries,
    )


def body_at(record: bytes) -> int:
    """Return where the body of a record begins. Much faster than `decode`, and checks nothing.

    Raises:
        ValueError: it is certainly no record.
    """
    try:
        at = 3
        for _ in range(3):
            at += 1 + record[at]
        at += 2 + int.from_bytes(record[at : at + 2])
        at += 3 + int.from_bytes(record[at + 1 : at + 3])
        if record[0] == ROUTED_VERSION:
            count, at = record[at], at + 1
            for _ in range(count):
                at += 8 + int.from_bytes(record[at + 4 : at + 8])
    except IndexError:
        raise ValueError("a message record ends too early") from None
    return at


def _deliveries(record: bytes, at: int) -> tuple[tuple[Delivery, ...], int]:
    """Read where a message goes; return it and where that ends."""
    found: list[Delivery] = []
    count, at = record[at : at + 1], at + 1
    for _ in range(int.from_bytes(count)):
        endpoint = int.from_bytes(record[at : at + 4])
        enrichments, at = _text(record, at + 4, 4)
        found.append(Delivery(endpoint, enrichments))
    if not count:
        raise ValueError("a message record ends too early")
    return tuple(found), at


def _text(record: bytes, at: int, width: int) -> tuple[str, int]:
    """Read a text with its length in front; return it and where it ends."""
    start = at + width
    end = start + int.from_bytes(record[at:start])
    if end > len(record) or start > len(record):
        raise ValueError("a message record ends too early")
    return record[start:end].decode(), end
