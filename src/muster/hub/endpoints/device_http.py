"""The HTTPS device API: telemetry to the hub, messages from it (hub-device.md 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from starlette.responses import Response

from muster.errors import InvalidArgumentError
from muster.hub.endpoints import http_messages
from muster.hub.endpoints.service_access import read_json
from muster.hub.queues import LOCK_S
from muster.model.message import MAX_MESSAGE_SIZE, Stamp, encode_stamp
from muster.net.routing import original_headers, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.authentication import Login
    from muster.hub.cloud_to_device import CloudToDevice
    from muster.hub.endpoints.device_access import DeviceAccess
    from muster.hub.hubs import Hub
    from muster.hub.telemetry import Telemetry
    from muster.net.routing import Route

MAX_LOCK_S: Final = 300
"""Longest lock a device can ask for."""
_BATCH_BODY: Final = 2 * MAX_MESSAGE_SIZE
"""Bytes of a batch in JSON; base64 takes a third more, and every message its braces."""


@final
class DeviceHttpEndpoint:
    """The calls of devices and modules; see `routes`."""

    def __init__(self, access: DeviceAccess, telemetry: Telemetry, messages: CloudToDevice) -> None:
        self._access = access
        self._telemetry = telemetry
        self._messages = messages

    def routes(self) -> list[Route]:
        """Return all operations."""
        table = (
            ("POST", "/messages/events", self._send),
            ("GET", "/messages/devicebound", self._receive),
            ("DELETE", "/messages/devicebound/{token}", self._end),
            ("POST", "/messages/devicebound/{token}/abandon", self._abandon),
        )
        return [
            self._access.route(method, identity + path, operation)
            for identity in ("/devices/{id}", "/devices/{id}/modules/{module}")
            for method, path, operation in table
        ]

    async def _send(self, hub: Hub, login: Login, request: Request) -> Response:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == http_messages.BATCH_TYPE:
            entries: http_messages.Batch = await read_json(
                request, http_messages.Batch, _BATCH_BODY
            )
            records = http_messages.batch(entries)
        else:
            body = await read_body(request, MAX_MESSAGE_SIZE)
            records = [http_messages.single(original_headers(request), body)]
        ref = login.ref
        stamp = encode_stamp(
            Stamp(ref.device_id, ref.module_id, login.generation_id, login.scope, login.model_id)
        )
        stamped = [stamp + record for record in records]
        await self._telemetry.send(hub, ref.device_id, stamped)
        if hub.faults is not None:
            hub.faults.look_at(ref, stamped)
        return Response(status_code=204)

    async def _receive(self, hub: Hub, login: Login, request: Request) -> Response:
        lock_s = _lock_s(request.headers.get("iothub-messagelocktimeout"))
        delivery = await self._messages.receive(login.ref, lock_s)
        if delivery is None:
            return Response(status_code=204)
        path = f"/devices/{login.ref.device_id}"
        if login.ref.module_id:
            path += f"/modules/{login.ref.module_id}"
        response = Response(delivery.message.body, media_type="application/octet-stream")
        response.raw_headers += http_messages.delivery_headers(
            delivery, f"{path}/messages/devicebound"
        )
        return response

    async def _end(self, hub: Hub, login: Login, request: Request) -> Response:
        token = request.path_params["token"].lower()
        if "reject" in request.query_params:
            await self._messages.reject(login.ref, token)
        else:
            await self._messages.complete(login.ref, token)
        return Response(status_code=204)

    async def _abandon(self, hub: Hub, login: Login, request: Request) -> Response:
        await self._messages.abandon(login.ref, request.path_params["token"].lower())
        return Response(status_code=204)


def _lock_s(text: str | None) -> float:
    if not text:
        return LOCK_S
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 3):
        text = "0"
    seconds = int(text)
    if not 1 <= seconds <= MAX_LOCK_S:
        raise InvalidArgumentError(
            f"IoTHub-MessageLockTimeout must be 1 to {MAX_LOCK_S} seconds.", code="invalid-lock"
        )
    return seconds
