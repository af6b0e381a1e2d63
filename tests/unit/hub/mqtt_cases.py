"""What tests of MQTT connections share."""

from __future__ import annotations

from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import IdentityRef

D1 = IdentityRef(1, "d1")
EVENTS = "devices/d1/messages/events/"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
RESPONSES = "$iothub/twin/res/#"


def desired(**properties: object) -> TwinRequest:
    return TwinRequest(properties=TwinProperties(properties))
