"""The HTTPS device API, and what back ends have of messages over REST (hub-device.md 4)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from muster.model.identity import IdentityRef
from muster.model.queued_message import Ack, QueuedMessage
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts
    from unit.hub.hub_rest import Reply

EVENTS = "/devices/d1/messages/events"
INBOX = "/devices/d1/messages/deviceBound"
BATCH = "application/vnd.microsoft.iothub.json"


async def call(rest: Rest, method: str, path: str, body: Any = None, **options: Any) -> Reply:
    """Call as the device d1, or the module m1 if the path says so."""
    who = IdentityRef(1, "d1", "m1" if "/modules/m1/" in path else "")
    options.setdefault("authorization", rest.parts.token(who))
    return await rest.call(method, path, body, **options)


async def test_headers_become_properties(parts: Parts, rest: Rest) -> None:
    await parts.device()
    reply = await call(
        rest,
        "POST",
        EVENTS,
        b'{"t": 1}',
        headers={
            "iothub-app-alert": "t&=ü ",
            "IoTHub-MessageId": "m 1",
            "IoTHub-CorrelationId": "c",
            "IoTHub-UserId": "u",
            "iothub-to": EVENTS,
            "iothub-contenttype": "application/json",
            "iothub-contentencoding": "utf-8",
            "dt-subject": "part",
            "User-Agent": "tests",
        },
    )
    assert (reply.status, reply.body) == (204, b"")
    (event,) = await parts.events()
    assert event.properties == {"alert": "t&=ü "}
    assert (event.body_encoding, bytes(event.body)) == ("json", b'{"t":1}')
    stamped = event.system_properties
    assert {name: stamped[name] for name in stamped if not name.startswith("iothub-")} == {
        "message-id": "m 1",
        "correlation-id": "c",
        "user-id": "u",
        "to": EVENTS,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "dt-subject": "part",
    }
    assert stamped["iothub-connection-device-id"] == "d1"
    assert '"scope":"device"' in str(stamped["iothub-connection-auth-method"])


async def test_a_batch_is_stored_whole_or_not_at_all(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.module()
    entries = [
        {"body": base64.b64encode(b"one").decode(), "properties": {"iothub-app-Case": "A"}},
        {"body": "two", "base64Encoded": False, "properties": {"iothub-messageid": 2}},
        {"body": ""},
    ]
    path = "/devices/d1/modules/m1/messages/events/"
    reply = await call(rest, "POST", path, entries, headers={"Content-Type": BATCH})
    assert reply.status == 204
    found = await parts.events()
    assert [event.body for event in found] == ["one", "two", ""]
    assert {event.module_id for event in found} == {"m1"}
    assert found[0].properties == {"Case": "A"}
    assert found[1].system_properties["message-id"] == "2"
    half = [{"body": base64.b64encode(bytes(131_072)).decode()}] * 2
    for wrong, error in (
        ([*entries, {"body": "no base64!"}], (400, "ArgumentInvalid")),
        (half, (413, "MessageTooLarge")),
        ([{"body": 5}], (400, "ArgumentInvalid")),
        ({"body": ""}, (400, "ArgumentInvalid")),
        (b"[", (400, "IotHubFormatError")),
    ):
        reply = await call(rest, "POST", path, wrong, headers={"Content-Type": BATCH})
        assert reply.error == error
    assert len(await parts.events()) == 3


async def test_who_may_call(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.module()
    await parts.device("off", status="disabled")
    for policy, status in (("device", 204), ("iothubowner", 204), ("service", 401)):
        reply = await rest.call("POST", EVENTS, b"", policy=policy)
        assert reply.status == status
    device, other = parts.token(IdentityRef(1, "d1")), parts.token(IdentityRef(1, "off"))
    module = "/devices/d1/modules/m1/messages/events"
    for path, authorization in (
        (EVENTS, ""),
        (EVENTS, other),
        (module, device),
        ("/devices/off/messages/events", other),
        ("/devices/nobody/messages/events", device),
    ):
        reply = await rest.call("POST", path, b"", authorization=authorization)
        assert reply.error == (401, "IotHubUnauthorizedAccess")
    assert await parts.checks("off") == ["device-disabled"]
    assert await parts.checks("d1/m1") == ["wrong-audience"]
    reply = await call(rest, "POST", EVENTS, b"", query="")
    assert reply.error == (400, "InvalidProtocolVersion")
    reply = await call(rest, "POST", EVENTS, bytes(262_145))
    assert reply.error == (413, "MessageTooLarge")


async def test_a_call_is_activity_but_no_connection(parts: Parts, rest: Rest) -> None:
    ref = await parts.device()
    await call(rest, "POST", EVENTS, b"")
    for _ in range(2):
        shown = await parts.identities.get(ref.hub, "d1")
        assert shown.connection_state == "Disconnected"
        assert shown.connection_state_updated_time == "0001-01-01T00:00:00Z"
        assert shown.last_activity_time == "2023-11-14T22:13:20Z"
        # From memory first, then from the database.
        parts.clock.advance(61)
        await parts.connections.tick()
    client = await parts.connect(ref)
    parts.clock.advance(5)
    await client.disconnect()
    gone_at = (await parts.identities.get(ref.hub, "d1")).connection_state_updated_time
    parts.clock.advance(5)
    await call(rest, "GET", INBOX)
    shown = await parts.identities.get(ref.hub, "d1")
    assert shown.connection_state_updated_time == gone_at
    assert shown.last_activity_time > gone_at


async def test_what_a_message_looks_like(parts: Parts, rest: Rest) -> None:
    ref = await parts.device()
    assert (await call(rest, "GET", INBOX)).status == 204
    await parts.messaging.cloud_to_device.send(
        ref,
        QueuedMessage(
            message_id="m1",
            correlation_id="c\r\nX: 1",
            user_id="u",
            content_type="text/plain",
            content_encoding="utf-8",
            expires_at=parts.clock.time() + 60,
            ack=Ack.FULL,
            properties={"Plain": "value %41", "sp ace": "ü", "none": None},
            body=b"\x00body",
        ),
    )
    reply = await call(rest, "GET", INBOX)
    assert (reply.status, reply.body) == (200, b"\x00body")
    token = reply.headers.pop("ETag")
    assert token[0] == token[-1] == '"'
    wanted = {
        "iothub-messageid": "m1",
        "iothub-correlationid": "c%0D%0AX: 1",
        "iothub-userid": "u",
        "iothub-to": "/devices/d1/messages/devicebound",
        "iothub-expiry": "2023-11-14T22:14:20Z",
        "iothub-ack": "full",
        "iothub-sequencenumber": "1",
        "iothub-enqueuedtime": "2023-11-14T22:13:20Z",
        "iothub-deliverycount": "0",
        "ContentType": "text/plain",
        "ContentEncoding": "utf-8",
        "iothub-app-Plain": "value %41",
        "iothub-app-sp%20ace": "%C3%BC",
        "iothub-app-none": "",
    }
    assert {name: value for name, value in reply.headers.items() if name in wanted} == wanted


async def test_settling(parts: Parts, rest: Rest) -> None:
    ref = await parts.device()
    for body in (b"1", b"2"):
        await parts.messaging.cloud_to_device.send(ref, QueuedMessage(body=body))

    async def receive(**headers: str) -> tuple[bytes, str]:
        reply = await call(rest, "GET", INBOX, headers=headers)
        return reply.body, reply.headers.get("ETag", "").strip('"')

    body, token = await receive(**{"IoTHub-MessageLockTimeout": "5"})
    assert body == b"1"
    parts.clock.advance(5)
    stale = await call(rest, "DELETE", f"{INBOX}/{token}", if_match=token)
    assert stale.error == (412, "DeviceMessageLockLost")
    body, token = await receive()
    assert body == b"1"
    reply = await call(rest, "POST", f"{INBOX}/{token}/abandon", if_match=token)
    assert (reply.status, reply.body) == (204, b"")
    reply = await call(rest, "GET", INBOX)
    assert (reply.body, reply.headers["iothub-deliverycount"]) == (b"1", "1")
    token = reply.headers["ETag"].strip('"')
    reply = await call(rest, "DELETE", f"{INBOX}/{token}", query="reject&api-version=2021-04-12")
    assert reply.status == 204
    body, token = await receive()
    assert body == b"2"
    assert (await call(rest, "DELETE", f"{INBOX}/{token.upper()}")).status == 204
    assert await receive() == (b"", "")
    for wrong in ("0", "301", "x", "-1"):
        reply = await call(rest, "GET", INBOX, headers={"IoTHub-MessageLockTimeout": wrong})
        assert reply.error == (400, "ArgumentInvalid")


async def test_back_ends(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.module()
    message = {
        "body": base64.b64encode(b"hello").decode(),
        "messageId": "m1",
        "ack": "full",
        "expiryTimeUtc": "2023-11-14T22:14:00",
        "properties": {"a": "b", "n": None},
    }
    module = "/admin/v1/messages/d1/modules/m1"
    for path in ("/admin/v1/messages/d1", module):
        await rest.must("POST", path, message, policy="service")
    for change, error in (
        ({"ack": "maybe"}, (400, "ArgumentInvalid")),
        ({"body": "%"}, (400, "ArgumentInvalid")),
        ({"expiryTimeUtc": "2023-11-14T22:13:19Z"}, (403, "InvalidMessageExpiryTime")),
        ({"unknown": 1}, (400, "ArgumentInvalid")),
    ):
        assert (await rest.call("POST", module, {**message, **change})).error == error
    assert (await rest.call("POST", "/admin/v1/messages/d2", {})).error == (404, "DeviceNotFound")
    for _ in range(49):
        await rest.must("POST", module, {})
    full = await rest.call("POST", module, {})
    assert full.error == (403, "DeviceMaximumQueueDepthExceeded")
    purged = await rest.must("DELETE", "/devices/d1/commands", policy="service")
    assert purged == {"totalMessagesPurged": 1, "deviceId": "d1", "moduleId": None}
    purged = await rest.must("DELETE", "/devices/d1/modules/m1/commands")
    assert purged == {"totalMessagesPurged": 50, "deviceId": "d1", "moduleId": "m1"}
    assert (await rest.call("DELETE", "/devices/d2/commands")).error == (404, "DeviceNotFound")

    feedback = "/messages/servicebound/feedback"
    assert (await rest.call("GET", feedback)).status == 204
    parts.clock.advance(15)
    await parts.messaging.tick()
    reply = await rest.call("GET", feedback, policy="service")
    assert reply.headers["content-type"] == "application/vnd.microsoft.iothub.feedback.json"
    assert [each["statusCode"] for each in json.loads(reply.body)] == ["Purged", "Purged"]
    token = reply.headers["etag"].strip('"')
    assert (await rest.call("GET", feedback)).status == 204
    assert (await rest.call("POST", f"{feedback}/{token}/abandon")).status == 204
    token = (await rest.call("GET", feedback)).headers["etag"].strip('"')
    assert (await rest.call("DELETE", f"{feedback}/{token}")).status == 204
    again = await rest.call("DELETE", f"{feedback}/{token}")
    assert again.error == (412, "DeviceMessageLockLost")
    assert (await rest.call("GET", feedback, policy="device")).error[0] == 401
    assert (await rest.call("GET", "/messages/serviceBound/filenotifications")).status == 204
