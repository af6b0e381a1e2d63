"""Policies and telemetry for our own CLI."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse

from muster.auth.connection_string import parse
from muster.errors import MusterError, UnauthorizedError
from muster.faults.admin_http import FaultsHttpEndpoint
from muster.hub import event_feed
from muster.hub.endpoints.admin_http import HubAdminEndpoint
from muster.hub.fault_control import InjectionOfHub
from muster.hub.telemetry import partition_of
from muster.net.routing import RouteGroup
from muster.wire.mqtt.packets import Publish
from unit.hub.hub_parts import HOST
from unit.hub.hub_rest import Reply, Rest

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from unit.hub.hub_parts import Parts

POLICIES = f"/admin/v1/policies/hubs/{HOST}"


@pytest.fixture
def rest(parts: Parts) -> Rest:
    def on_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, MusterError):
            raise error
        return JSONResponse({"code": error.code}, 401 if "unauth" in error.code else 400)

    def authorize_admin(request: Request) -> None:
        if request.headers.get("authorization") != "admin":
            raise UnauthorizedError("no")

    group = RouteGroup("admin", on_error)
    endpoint = HubAdminEndpoint(
        hubs=parts.hubs,
        telemetry=parts.telemetry,
        clock=parts.clock,
        authorize_admin=authorize_admin,
        group=group,
    )
    return Rest(parts, endpoint.routes(), group)


async def send(parts: Parts, device_id: str, *bodies: bytes) -> None:
    ref = await parts.device(device_id)
    client = await parts.connect(ref)
    topic = f"devices/{device_id}/messages/events/"
    client.send(*(Publish(topic, body, 1, n) for n, body in enumerate(bodies, 1)))
    await client.take(len(bodies))


def lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status == 200, reply.body
    return [json.loads(line) for line in reply.body.splitlines() if line]


async def test_policies(rest: Rest) -> None:
    listed = await rest.must("GET", POLICIES, authorization="admin")
    assert len(listed) == 5
    for policy in listed:
        connection = parse(policy["connectionString"])
        assert (connection.host, connection.key_name) == (HOST, policy["name"])
        assert connection.key == policy["primaryKey"]
    body = {"rights": ["serviceconnect", "RegistryRead"]}
    made = await rest.must("PUT", f"{POLICIES}/mine", body, authorization="admin")
    assert made["rights"] == ["RegistryRead", "ServiceConnect"]
    assert await rest.must("GET", f"{POLICIES}/mine", authorization="admin") == made
    await rest.must("DELETE", f"{POLICIES}/mine", authorization="admin")
    assert (await rest.call("GET", f"{POLICIES}/mine", authorization="admin")).status == 400
    reply = await rest.call("PUT", f"{POLICIES}/m", {"rights": ["All"]}, authorization="admin")
    assert reply.json == {"code": "invalid-policy"}
    assert (await rest.call("GET", POLICIES)).status == 401


async def test_events_from_the_beginning(rest: Rest, parts: Parts) -> None:
    await send(parts, "d1", b'{"t": [21.50,\n 1e3]}', b"plain", b"\xff\x00", b"", b'{"a":' * 5000)
    query = "from=earliest"
    found = lines(await rest.call("GET", "/admin/v1/events", query=query, policy="service"))
    assert [(event["body"], event["bodyEncoding"]) for event in found[:4]] == [
        ({"t": [21.5, 1000.0]}, "json"),
        ("plain", "utf-8"),
        ("/wA=", "base64"),
        ("", "utf-8"),
    ]
    assert found[4]["bodyEncoding"] == "utf-8"
    first = found[0]
    partition = partition_of("d1", 4)
    generation = (await parts.identities.get(parts.hub.id, "d1")).generation_id
    time = parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    assert isinstance(first.pop("offset"), int)
    assert first == {
        "sequenceNumber": 0,
        "partition": partition,
        "enqueuedTime": time,
        "deviceId": "d1",
        "moduleId": None,
        "source": "Telemetry",
        "systemProperties": {
            "iothub-connection-device-id": "d1",
            "iothub-connection-auth-method": '{"scope":"device","type":"sas","issuer":"iothub",'
            '"acceptingIpFilterRule":null}',
            "iothub-connection-auth-generation-id": generation,
            "iothub-enqueuedtime": time,
            "iothub-message-source": "Telemetry",
        },
        "properties": {},
        "body": {"t": [21.5, 1000.0]},
        "bodyEncoding": "json",
    }


async def test_where_to_begin(rest: Rest, parts: Parts) -> None:
    await send(parts, "d1", b"0", b"1")
    parts.clock.advance(100)
    moment = parts.clock.now()
    await send(parts, "d2", b"2", b"3")

    async def bodies(**query: str) -> list[Any]:
        text = "&".join(f"{name}={value}" for name, value in query.items())
        reply = await rest.call("GET", "/admin/v1/events", query=text, authorization="admin")
        return sorted(event["body"] for event in lines(reply))

    partition = {name: str(partition_of(name, 4)) for name in ("d1", "d2")}
    earliest = {"from": "earliest"}
    assert await bodies(**earliest) == [0, 1, 2, 3]
    assert await bodies(**{"from": "latest"}) == []
    assert await bodies() == []
    assert await bodies(**{"from": "1", "deviceId": "d1"}) == [1]
    assert await bodies(**{"from": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}) == [2, 3]
    assert await bodies(**earliest, deviceId="d1", hub=HOST) == [0, 1]
    assert await bodies(**earliest, deviceId="nobody") == []
    if partition["d1"] != partition["d2"]:
        assert await bodies(**earliest, partition=partition["d2"]) == [2, 3]
    for query in ("from=sometime", "partition=4", "partition=x", "hub=elsewhere"):
        reply = await rest.call("GET", "/admin/v1/events", query=query, authorization="admin")
        assert reply.status == 400
    assert (await rest.call("GET", "/admin/v1/events", policy="device")).status == 401


async def test_following(rest: Rest, parts: Parts) -> None:
    await send(parts, "d1", b"1")
    query = "from=earliest&follow=true&deviceId=d1"
    following = asyncio.ensure_future(
        rest.call("GET", "/admin/v1/events", query=query, authorization="admin", until=3)
    )
    await asyncio.sleep(0.05)
    await send(parts, "d2", b"other")
    await parts.identities.delete(parts.hub.id, "d1", "*")
    await send(parts, "d1", b"2", b"3")
    assert [event["body"] for event in lines(await following)] == [1, 2, 3]


async def test_a_quiet_follower_gets_signs_of_life(parts: Parts) -> None:
    log = parts.telemetry.log(parts.hub)
    feed = event_feed.read(
        log, event_feed.start(log, range(4), "latest"), follow=True, keep_alive_s=0.01
    )
    assert await anext(feed) == []
    await send(parts, "d1", b"1")
    while not (batch := await anext(feed)):
        pass
    assert len(batch) == 1
    await feed.aclose()  # type: ignore[attr-defined]


async def test_damage_on_the_disk_costs_only_what_is_damaged(
    rest: Rest, parts: Parts, tmp_path: Path
) -> None:
    await send(parts, "d1", b"first-body")
    await send(parts, "d2", b"second-body")
    files = [file for file in (tmp_path / "telemetry").rglob("*") if file.is_file()]
    (damaged,) = [file for file in files if b"first-body" in file.read_bytes()]
    damaged.write_bytes(damaged.read_bytes().replace(b"first-body", b"f1rst-body"))
    reply = await rest.call("GET", "/admin/v1/events", query="from=earliest", authorization="admin")
    assert [event["body"] for event in lines(reply)] == ["second-body"]
    await send(parts, "d3", b"third-body")
    query = "from=earliest&follow=true"
    reply = await rest.call("GET", "/admin/v1/events", query=query, authorization="admin", until=2)
    assert sorted(event["body"] for event in lines(reply)) == ["second-body", "third-body"]


async def test_many_events_come_in_the_order_of_each_partition(rest: Rest, parts: Parts) -> None:
    for number in range(6):
        await send(parts, f"d{number}", *(str(n).encode() for n in range(300)))
    reply = await rest.call("GET", "/admin/v1/events", query="from=earliest", authorization="admin")
    found = lines(reply)
    assert len(found) == 1800
    for number in range(6):
        own = [event["body"] for event in found if event["deviceId"] == f"d{number}"]
        assert own == list(range(300))


# Faults.


async def test_faults(parts: Parts) -> None:
    switched: list[bool] = []

    def on_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, MusterError), error
        return JSONResponse({"code": error.code}, 400)

    def authorize_admin(request: Request) -> None:
        if request.headers.get("authorization") != "admin":
            raise UnauthorizedError("no")

    group = RouteGroup("admin", on_error)

    def of_hub(request: Request) -> InjectionOfHub:
        authorize_admin(request)
        return InjectionOfHub(parts.faults, parts.hubs.get(request.path_params["host"]))

    endpoint = FaultsHttpEndpoint(
        place="/admin/v1/hubs/{host}",
        injection=of_hub,
        switched=lambda: switched.append(parts.hub.faults is not None),
        group=group,
    )
    rest = Rest(parts, endpoint.routes(), group)
    collection = f"/admin/v1/hubs/{HOST}/faults"
    switch = f"/admin/v1/hubs/{HOST}/fault-injection"

    async def call(method: str, path: str, body: Any = None) -> Any:
        reply = await rest.call(method, path, body, authorization="admin")
        return reply.json if reply.body else reply.status

    assert await call("GET", switch) == {"enabled": False}
    assert await call("GET", collection) == []
    wanted = {"kind": "delay", "delay": 2.5, "prefix": "d", "duration": 10}
    assert await call("POST", collection, wanted) == {"code": "fault-injection-off"}
    assert await call("PUT", switch, {"enabled": True}) == {"enabled": True}
    made = await call("POST", collection, wanted)
    assert (made["kind"], made["delay"], made["prefix"]) == ("delay", 2.5, "d")
    assert (made["error"], made["injected"], made["orderedBy"]) == (None, 0, "operator")
    assert await call("GET", collection) == [made]
    assert await call("GET", f"{collection}/{made['id']}") == made
    assert await call("DELETE", f"{collection}/{made['id']}") == 204
    assert await call("GET", f"{collection}/{made['id']}") == {"code": "fault-not-found"}
    for wrong in (
        {"kind": "explode"},
        {"kind": "reset"},
        {"kind": "reset", "prefix": "d", "device": "d1"},
        {"kind": "reset", "targetCondition": "tags.a ="},
    ):
        assert (await call("POST", collection, wrong))["code"].startswith("invalid-")
    assert await call("PUT", switch, {"enabled": False}) == {"enabled": False}
    assert switched == [True, False]
    assert (await rest.call("GET", collection, authorization="device")).status == 400
