"""Twins on MQTT: what a device asks and is told (hub-device.md 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.errors import MusterError
from muster.hub.endpoints import errors
from muster.hub.endpoints.mqtt_faults import REQUEST_FAULTS
from muster.model.fault import FaultTransport
from muster.net.routing import decode_json
from muster.wire.mqtt import device_names, device_twins
from muster.wire.mqtt.device_names import TWIN_GET, TWIN_PATCH

if TYPE_CHECKING:
    from muster.hub.desired_feed import DesiredFeed
    from muster.hub.endpoints.session_services import SessionServices
    from muster.hub.hubs import Hub
    from muster.model.identity import IdentityRef
    from muster.wire.mqtt.packets import Publish


async def answer(
    services: SessionServices,
    hub: Hub,
    ref: IdentityRef,
    request: Publish,
    feed: DesiredFeed | None = None,
) -> bytes:
    """Do what a twin request asks and return the PUBLISH that answers it.

    What it changed is durable by then. The answer goes out also without a subscription to answers:
    Python asks before it subscribes, or after a reconnect without subscribing again
    (hub-device.md 0.2).

    Args:
        services: has the twins.
        hub: where the twin is.
        ref: whose twin.
        request: with a topic that begins with `TWIN_GET` or `TWIN_PATCH`.
        feed: is told what the client is answered, `None` for none.
    """
    reading = request.topic.startswith(TWIN_GET)
    tail = request.topic[len(TWIN_GET if reading else TWIN_PATCH) :]
    status, version, body = 200, None, b""
    parameters = device_names.parse_twin_parameters(tail)
    try:
        if hub.faults is not None:
            hub.faults.check(ref, REQUEST_FAULTS, FaultTransport.MQTT)
        if reading:
            body, desired_version = await services.twins.device_view(ref)
            if feed is not None:
                feed.has(desired_version)
        else:
            patch: dict[str, Any] = decode_json(request.payload, dict[str, Any])
            version = await services.twins.report(ref, patch, parameters.version())
            status = 204
    except MusterError as error:
        status, body = errors.device_body(error, services.randomness.uuid(), services.clock.now())
    return device_twins.response(parameters.request_id, status, body, version)
