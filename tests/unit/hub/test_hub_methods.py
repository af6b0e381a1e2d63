"""Direct methods, from the REST call to the device on MQTT and back (hub-service.md 1.7)."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import sas_token, symmetric_keys
from muster.hub.endpoints import errors
from muster.hub.method_calls import MAX_IN_FLIGHT, MethodCalls
from muster.hub.methods import NotOnlineError
from muster.model.identity import IdentityRef
from muster.model.method import MAX_PAYLOAD, MethodCall
from muster.wire.mqtt.device_filters import METHODS
from muster.wire.mqtt.packets import Puback, Publish, Subscribe, Unsubscribe
from unit.hub.hub_parts import HOST, KEY
from unit.hub.hub_rest import Reply, Rest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Client, Parts

D1 = IdentityRef(1, "d1")


async def subscribed(parts: Parts, ref: IdentityRef, topic_filter: str = METHODS) -> Client:
    client = await parts.connect(ref)
    client.send(Subscribe(1, [(topic_filter, 1)]))
    await client.take()
    return client


async def asked(client: Client) -> tuple[str, str, bytes]:
    """Return name, request ID and payload of the next method."""
    (packet,) = await client.take()
    assert isinstance(packet, Publish)
    assert packet.qos == 0
    found = re.fullmatch(r"\$iothub/methods/POST/([^/]+)/\?\$rid=([0-9a-f]+)", packet.topic)
    assert found, packet.topic
    return found[1], found[2], packet.payload


def answer(client: Client, request_id: str, status: int = 200, payload: bytes = b"") -> None:
    client.publish(f"$iothub/methods/res/{status}/?$rid={request_id}", payload, None)


def calling(rest: Rest, body: Any, path: str = "d1", **options: Any) -> asyncio.Task[Reply]:
    call = rest.call("POST", f"/twins/{path}/methods", body, **options)
    return asyncio.ensure_future(call)


def failure(reply: Reply) -> tuple[int, int, str, Any]:
    """Return status, number, header and info of an error of shape B."""
    assert reply.json["ExceptionMessage"] == ""
    inner = json.loads(reply.json["Message"])
    assert re.fullmatch(r"[0-9a-f]{32}-G:\d+-TimeStamp:[\d/]+ [\d:]+", inner["trackingId"])
    assert inner["timestampUtc"].endswith("Z")
    return reply.status, inner["errorCode"], reply.headers["iothub-errorcode"], inner.get("info")


@pytest.mark.parametrize("path", ["d1", "d1/modules/m1"])
async def test_a_method_is_answered(parts: Parts, rest: Rest, path: str) -> None:
    await parts.device()
    ref = await parts.module() if "/" in path else D1
    client = await subscribed(parts, ref)
    body = b'{"methodName":"re.boot","payload":{"n": 9007199254740993, "a":[1.0]},"x":1}'
    call = calling(rest, body, path, policy="service")
    name, request_id, payload = await asked(client)
    assert (name, payload) == ("re.boot", b'{"n": 9007199254740993, "a":[1.0]}')
    client.publish(f"$iothub/methods/res/-3/?$rid={request_id}", b'{"z": 1e2}', 7)
    reply = await call
    assert (reply.status, reply.body) == (200, b'{"status":-3,"payload":{"z": 1e2}}')
    assert await client.take() == [Puback(7)]


async def test_no_payload_is_null_both_ways(parts: Parts, rest: Rest) -> None:
    await parts.device()
    client = await subscribed(parts, D1, "$iothub/methods/POST/stop/#")
    call = calling(rest, {"methodName": "stop"})
    _, request_id, payload = await asked(client)
    assert payload == b"null"
    answer(client, request_id)
    assert (await call).json == {"status": 200, "payload": None}
    # The subscription is to this one method.
    reply = await calling(rest, {"methodName": "start"})
    assert failure(reply) == (404, 404103, "DeviceNotOnline", {"timeout": "00:00:00"})


async def test_who_is_not_there_is_not_waited_for(parts: Parts, rest: Rest) -> None:
    await parts.device()
    not_online = (404, 404103, "DeviceNotOnline", {"timeout": "00:00:00"})
    body = {"methodName": "m", "payload": None, "connectTimeoutInSeconds": 0}
    assert failure(await calling(rest, body)) == not_online
    client = await parts.connect(D1)
    assert failure(await calling(rest, body)) == not_online
    client.send(Subscribe(1, [(METHODS, 0)]))
    await client.take()
    client.send(Unsubscribe(2, [METHODS]))
    await client.take()
    assert failure(await calling(rest, body)) == not_online
    for path, expected in (
        ("d2", (404, 404001, "DeviceNotFound", None)),
        ("d1/modules/m9", (404, 404010, "ModuleNotFound", None)),
    ):
        assert failure(await calling(rest, body, path)) == expected


async def test_who_comes_in_time_is_called(parts: Parts, rest: Rest) -> None:
    await parts.device()
    body = {"methodName": "m", "connectTimeoutInSeconds": 60}
    calls = [calling(rest, body) for _ in range(2)]
    # It comes, and subscribes later; then it is called with what was waiting.
    client = await subscribed(parts, D1)
    for status in (1, 2):
        _, request_id, _ = await asked(client)
        answer(client, request_id, status)
    assert {(await call).json["status"] for call in calls} == {1, 2}
    # The next time the stored subscription is enough.
    await client.disconnect()
    call = calling(rest, body)
    await asyncio.sleep(0)
    client = await parts.connect(D1)
    _, request_id, _ = await asked(client)
    answer(client, request_id, 3)
    assert (await call).json["status"] == 3


async def test_waiting_ends_with_the_connect_time_out(parts: Parts, rest: Rest) -> None:
    await parts.device()
    reply = await calling(rest, {"methodName": "m", "connectTimeoutInSeconds": 1})
    assert failure(reply) == (404, 404103, "DeviceNotOnline", {"timeout": "00:00:01"})
    longest = errors.method_response(NotOnlineError("d1", 300), "", parts.clock.now())
    assert b'\\"info\\":{\\"timeout\\":\\"00:05:00\\"}' in bytes(longest.body)


async def test_silence_is_a_time_out_and_a_late_answer_is_dropped(parts: Parts, rest: Rest) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    call = calling(rest, {"methodName": "m", "responseTimeoutInSeconds": 5})
    _, request_id, _ = await asked(client)
    assert failure(await call) == (504, 504101, "GatewayTimeout", {})
    client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"1", 9)
    # It is acknowledged, and the connection stays.
    assert await client.take() == [Puback(9)]
    assert not client.peer.closed


@pytest.mark.parametrize(
    "topic",
    ["200/?$rid=ffffffffff", "abc/?$rid={}", "200/?$rid=zz", "99999999999/?$rid={}", "200"],
)
async def test_what_answers_nothing_is_ignored(parts: Parts, rest: Rest, topic: str) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    call = calling(rest, {"methodName": "m"})
    _, request_id, _ = await asked(client)
    client.publish("$iothub/methods/res/" + topic.format(request_id), b"1", None)
    answer(client, request_id, 201)
    answer(client, request_id, 202)
    assert (await call).json["status"] == 201


@pytest.mark.parametrize("payload", [b"{not json", b'"\xff"', b'"' + b"x" * MAX_PAYLOAD + b'"'])
async def test_an_answer_that_is_no_json_or_too_large(
    parts: Parts, rest: Rest, payload: bytes
) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    call = calling(rest, {"methodName": "m"})
    _, request_id, _ = await asked(client)
    answer(client, request_id, payload=payload)
    assert failure(await call) == (502, 502000, "GenericBadGateway", None)


@pytest.mark.parametrize("end", ["disconnect", "vanish", "takeover", "disable"])
async def test_a_connection_that_ends_takes_its_calls_along(
    parts: Parts, rest: Rest, end: str
) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    call = calling(rest, {"methodName": "m", "connectTimeoutInSeconds": 60})
    await asked(client)
    if end == "takeover":
        newer = await parts.connect(D1)
    elif end == "disable":
        await rest.must("PUT", "/devices/d1", {"status": "disabled"}, if_match="*")
    else:
        await (client.disconnect() if end == "disconnect" else client.vanish())
    assert failure(await call)[:3] == (404, 404104, "DeviceConnectionClosedRemotely")
    if end == "takeover":
        # Not asked again.
        assert newer.peer.packets == []


async def test_another_clients_answer_does_not_count(parts: Parts, rest: Rest) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    other = await subscribed(parts, await parts.device("d2"))
    call = calling(rest, {"methodName": "m"})
    _, request_id, _ = await asked(client)
    answer(other, request_id, 666)
    answer(client, request_id, 200)
    assert (await call).json["status"] == 200


async def test_too_many_calls_at_once(parts: Parts, rest: Rest) -> None:
    await parts.device()
    client = await subscribed(parts, D1)
    calls = [calling(rest, {"methodName": "m"}) for _ in range(MAX_IN_FLIGHT)]
    ids = [(await asked(client))[1] for _ in calls]
    reply = await calling(rest, {"methodName": "m"})
    assert failure(reply)[:3] == (403, 403800, "DeviceMaximumInflightMethodExceeded")
    for request_id in ids:
        answer(client, request_id)
    assert {(await call).status for call in calls} == {200}
    assert len(set(ids)) == MAX_IN_FLIGHT


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"methodName": ""}, (400, 400004)),
        ({"methodName": "a/b"}, (400, 400004)),
        ({"methodName": "ümlaut"}, (400, 400004)),
        ({"methodName": None}, (400, 400004)),
        ({"responseTimeoutInSeconds": 4}, (400, 400004)),
        ({"responseTimeoutInSeconds": 301}, (400, 400004)),
        ({"connectTimeoutInSeconds": -1}, (400, 400004)),
        ({"connectTimeoutInSeconds": 301}, (400, 400004)),
        ({"payload": "x" * MAX_PAYLOAD}, (413, 413001)),
    ],
)
async def test_limits(
    parts: Parts, rest: Rest, change: dict[str, Any], expected: tuple[int, int]
) -> None:
    await parts.device()
    reply = await calling(rest, {"methodName": "m"} | change)
    assert failure(reply)[:2] == expected


async def test_who_may_call(rest: Rest) -> None:
    for policy, status in (("registryReadWrite", 401), ("device", 401), ("service", 404)):
        assert (await calling(rest, {"methodName": "m"}, policy=policy)).status == status


async def test_an_edge_module_calls_what_its_edge_hub_reaches(parts: Parts, rest: Rest) -> None:
    await parts.device("edge", edge=True)
    caller = await parts.module("edge", "m1")
    scope = (await parts.identities.get(1, "edge")).device_scope
    assert isinstance(scope, str)
    await parts.device("leaf", device_scope=scope)
    await parts.device("stranger")

    async def call(path: str, as_module: str | None = "edge/m1", key: str = KEY) -> int:
        expiry = int(parts.clock.time()) + 60
        resource = f"{HOST}/devices/edge/modules/m1"
        token = sas_token.sign(resource, symmetric_keys.decode(key), expiry)
        reply = await calling(
            rest,
            {"methodName": "m"},
            path,
            authorization=token,
            headers={"x-ms-edge-moduleId": as_module} if as_module else {},
        )
        return reply.status

    for path in ("edge", "edge/modules/m1", "edge/modules/$edgeAgent", "leaf"):
        assert await call(path) == 404
    assert await call("stranger") == 401
    assert await call("nobody") == 401
    assert await parts.checks("/twins/stranger/methods") == ["not-in-scope"]
    for refused in (
        {"as_module": None},
        {"as_module": "edge/$edgeHub"},
        {"as_module": "edge"},
        {"as_module": "nonsense"},
        {"key": "QUFBQUFBQUFBQUFBQUFBQUFBQUE="},
    ):
        assert await call("edge", **refused) == 401
    client = await subscribed(parts, caller)
    assert client.session_present is False


async def test_another_node_has_the_client(parts: Parts) -> None:
    from muster.bus.inprocess import InProcessBus
    from muster.hub.connections import Connections

    await parts.device()
    assert isinstance(parts.bus, InProcessBus)
    # A second node on the same bus, which does not have it.
    elsewhere = Connections(parts.engine, parts.bus, parts.clock, parts.changes)
    MethodCalls(elsewhere, parts.bus, parts.randomness).open()
    client = await subscribed(parts, D1)
    call = MethodCall(name="m", connect_timeout_s=60)
    calling = asyncio.ensure_future(parts.methods.invoke(D1, call))
    _, request_id, _ = await asked(client)
    answer(client, request_id, 5)
    assert (await calling).status == 5
