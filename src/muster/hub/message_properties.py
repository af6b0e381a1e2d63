"""The properties of a stored message, read from the property bag it came with.

The bag of MQTT is the form in which every transport stores properties (hub-device.md 2.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from muster.model.message import Message

_SYSTEM_NAMES: Final = {
    "$.mid": "message-id",
    "$.cid": "correlation-id",
    "$.uid": "user-id",
    "$.to": "to",
    "$.ct": "content-type",
    "$.ce": "content-encoding",
    "$.exp": "absolute-expiry-time",
    "$.on": "iothub-outputname",
    "$.ctime": "iothub-creation-time-utc",
    "$.schema": "iothub-message-schema",
    "$.ifid": "iothub-interface-id",
    "$.sub": "dt-subject",
}


class Properties(Struct):
    """What a message says of itself.

    Attributes:
        system: by the names of the Event Hubs SDKs.
        application: the sender's own and the enrichments; `None` for a name without a value.
    """

    system: dict[str, str | None]
    application: dict[str, str | None]


def read(message: Message, enrichments: str = "") -> Properties:
    """Return the properties of a message.

    Args:
        message: as it is stored.
        enrichments: property bag of what one endpoint gets beside them. The service's word counts
            more than the sender's.
    """
    found = Properties({}, {})
    for name, value in property_bag.decode(message.bag):
        if name.startswith("$."):
            # One that is not known keeps its name: system it is in any case.
            found.system[_SYSTEM_NAMES.get(name, name)] = value
        else:
            found.application[name] = value
    if message.retain:
        found.application["mqtt-retain"] = "true"
    if message.will:
        found.application["iothub-MessageType"] = "Will"
    if enrichments:
        found.application.update(property_bag.decode(enrichments))
    return found
