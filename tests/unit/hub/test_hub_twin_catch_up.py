"""Clients that were away are sent the desired properties they missed, where that is on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse

from muster.errors import MusterError, UnauthorizedError
from muster.hub.endpoints.twin_catch_up_http import TwinCatchUpHttpEndpoint
from muster.hub.twin_catch_up import Delivery
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.configuration import Content
from muster.model.twin_catch_up import NOTHING
from muster.net.routing import RouteGroup
from muster.store.engine import Query
from muster.wire.mqtt.packets import Publish, Suback, Subscribe, Unsuback, Unsubscribe
from unit.hub.deployment_parts import Deploying
from unit.hub.hub_parts import HOST, Client
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from muster.clock import ManualClock
    from muster.model.identity import IdentityRef
    from unit.hub.hub_parts import Parts

DESIRED = "$iothub/twin/PATCH/properties/desired/#"


async def change(parts: Parts, ref: IdentityRef, *, replace: bool = False, **desired: Any) -> None:
    request = TwinRequest(properties=TwinProperties(desired))
    await parts.twins.change(ref, request, replace=replace)


async def subscribed(parts: Parts, ref: IdentityRef, **options: Any) -> Client:
    client = await parts.connect(ref, **options)
    client.send(Subscribe(1, [(DESIRED, 0)]))
    assert await client.take() == [Suback(1, [0])]
    return client


async def told(client: Client) -> dict[str, Any]:
    (packet,) = await client.take()
    assert isinstance(packet, Publish)
    body: dict[str, Any] = json.loads(packet.payload)
    assert packet.topic.endswith(f"?$version={body['$version']}")
    return body


def heard(client: Client) -> None:
    """Let the client be heard well after everything it was sent."""
    client.peer.last_received = asyncio.get_running_loop().time() + 10


async def nothing_missed(parts: Parts, ref: IdentityRef, client: Client) -> None:
    """Assert that the client is sent nothing but what changes now."""
    version = (await parts.twins.device_view(ref)).desired_version + 1
    await change(parts, ref, now=version)
    assert await told(client) == {"now": version, "$version": version}


@pytest.fixture
async def ref(parts: Parts) -> IdentityRef:
    await parts.twin_catch_up.switch(parts.hub, on=True)
    ref = await parts.device()
    await change(parts, ref, a=1, b={"c": 1, "d": 2})
    return ref


async def up_to_date(parts: Parts, ref: IdentityRef, *, clean: bool = True) -> None:
    """Let a client connect, get everything, and leave."""
    client = await subscribed(parts, ref, clean=clean)
    assert await told(client) == {"a": 1, "b": {"c": 1, "d": 2}, "$version": 2}
    heard(client)
    await client.disconnect()


async def test_what_was_missed_is_sent_after_subscribing(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref)
    await change(parts, ref, b={"c": None, "d": 5}, e=[1])
    await change(parts, ref, f=True)
    await change(parts, ref, f=None)
    client = await subscribed(parts, ref)
    assert await told(client) == {
        "b": {"c": None, "d": 5},
        "e": [1],
        "f": None,
        "$version": 5,
    }
    await change(parts, ref, g=1)
    assert await told(client) == {"g": 1, "$version": 6}


async def test_off_nothing_is_sent_and_nothing_kept(parts: Parts) -> None:
    ref = await parts.device()
    client = await subscribed(parts, ref)
    heard(client)
    await client.disconnect()
    await change(parts, ref, a=1)
    await change(parts, ref, a=None)
    client = await subscribed(parts, ref)
    await nothing_missed(parts, ref, client)
    await parts.twin_catch_up.write_down()
    for table in ("desired_deliveries", "desired_removals"):
        assert await rows(parts, table) == []


async def test_a_stored_subscription_counts(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref, clean=False)
    await change(parts, ref, a=2)
    client = await parts.connect(ref, clean=False)
    assert client.session_present
    assert await told(client) == {"a": 2, "$version": 3}


async def test_what_was_delivered_is_not_sent_again(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref)
    client = await subscribed(parts, ref)
    await nothing_missed(parts, ref, client)
    heard(client)
    await client.vanish()
    await nothing_missed(parts, ref, await subscribed(parts, ref))


async def test_what_went_into_a_dead_connection_is_sent_again(
    parts: Parts, ref: IdentityRef
) -> None:
    await up_to_date(parts, ref)
    client = await subscribed(parts, ref)
    await change(parts, ref, a=2)
    assert await told(client) == {"a": 2, "$version": 3}
    await client.vanish()
    assert await told(await subscribed(parts, ref)) == {"a": 2, "$version": 3}


async def test_a_twin_that_was_read_counts_as_delivered(parts: Parts, ref: IdentityRef) -> None:
    client = await parts.connect(ref)
    client.publish("$iothub/twin/GET/?$rid=1", b"", None)
    await client.take()
    heard(client)
    await client.disconnect()
    await nothing_missed(parts, ref, await subscribed(parts, ref))


async def test_subscribing_again_on_the_same_connection(parts: Parts, ref: IdentityRef) -> None:
    client = await subscribed(parts, ref)
    await told(client)
    client.send(Unsubscribe(2, [DESIRED]))
    assert await client.take() == [Unsuback(2)]
    await change(parts, ref, a=7)
    client.send(Subscribe(3, [(DESIRED, 0)]))
    assert await client.take() == [Suback(3, [0])]
    assert await told(client) == {"a": 7, "$version": 3}


async def test_changes_that_come_meanwhile_keep_their_order(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref)
    for turn in range(6):
        client = await parts.connect(ref)
        client.send(Subscribe(1, [(DESIRED, 0)]))
        changes = asyncio.gather(*(change(parts, ref, n=10 * turn + n) for n in range(5)))
        await changes
        expected = (await parts.twins.device_view(ref)).desired_version
        seen: list[int] = []
        while not seen or seen[-1] != expected:
            (packet,) = await client.take()
            if isinstance(packet, Publish):
                seen.append(json.loads(packet.payload)["$version"])
        assert seen == sorted(set(seen))
        heard(client)
        await client.disconnect()
        parts.clock.advance(10)


async def test_deliveries_survive_a_restart(
    parts: Parts, ref: IdentityRef, tmp_path: Path, clock: ManualClock
) -> None:
    await up_to_date(parts, ref)
    await change(parts, ref, a=None)
    await parts.twin_catch_up.write_down()
    assert await rows(parts, "desired_deliveries") == [(2,)]
    again = type(parts)(parts.engine, tmp_path / "again", clock)
    await again.hubs.open()
    await again.twin_catch_up.open()
    hub = again.hubs.get(HOST)
    assert hub.twin_catch_up
    feed = again.services.feed(hub, ref, "", send=lambda *_: None, heard_at=lambda: 0.0)
    assert feed is not None
    known = (await parts.identities.get(ref.hub, "d1")).generation_id
    missed = await again.twin_catch_up.missed(ref, Delivery(known, NOTHING))
    assert missed is not None
    assert json.loads(missed.body or b"") == {"a": None, "$version": 3}


async def test_what_a_client_knows_is_forgotten(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref)
    await change(parts, ref, a=None)
    await parts.twin_catch_up.write_down()
    assert len(await rows(parts, "desired_removals")) == 1
    client = await subscribed(parts, ref)
    assert await told(client) == {"a": None, "$version": 3}
    heard(client)
    await parts.twin_catch_up.write_down()
    assert await rows(parts, "desired_removals") == []
    await parts.twin_catch_up.switch(parts.hub, on=False)
    assert await rows(parts, "desired_deliveries") == []


async def test_a_new_identity_of_the_same_name_has_nothing(parts: Parts, ref: IdentityRef) -> None:
    await up_to_date(parts, ref)
    await change(parts, ref, a=None)
    await parts.identities.delete(ref.hub, "d1", "*")
    parts.clock.advance(1)
    assert await rows(parts, "desired_removals") == []
    await parts.device()
    await change(parts, ref, z=1)
    client = await subscribed(parts, ref)
    assert await told(client) == {"z": 1, "$version": 2}


async def test_what_a_deployment_removes_is_missed_too(parts: Parts, ref: IdentityRef) -> None:
    deploying = Deploying(parts)
    wanted = Content(device_content={"properties.desired.rate": 5, "properties.desired.x": 1})
    await deploying.create("rate", wanted)
    client = await subscribed(parts, ref)
    assert (await told(client))["rate"] == 5
    heard(client)
    await client.disconnect()
    await deploying.configurations.delete(parts.hub, "rate", "*")
    await deploying.settle()
    client = await subscribed(parts, ref)
    body = await told(client)
    assert (body["rate"], body["x"]) == (None, None)


async def test_the_administrative_switch(parts: Parts) -> None:
    def on_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, MusterError), error
        return JSONResponse({"code": error.code}, 400)

    def authorize_admin(request: Request) -> None:
        if request.headers.get("authorization") != "admin":
            raise UnauthorizedError("no")

    group = RouteGroup("admin", on_error)
    endpoint = TwinCatchUpHttpEndpoint(
        hubs=parts.hubs,
        twin_catch_up=parts.twin_catch_up,
        authorize_admin=authorize_admin,
        group=group,
    )
    rest = Rest(parts, endpoint.routes(), group)
    path = f"/admin/v1/hubs/{HOST}/twin-catch-up"
    for method, body, expected in (
        ("GET", None, False),
        ("PUT", {"enabled": True}, True),
        ("GET", None, True),
        ("PUT", {"enabled": False}, False),
    ):
        reply = await rest.call(method, path, body, authorization="admin")
        assert reply.json == {"enabled": expected}
        assert bool(parts.hub.twin_catch_up) is expected
    assert (await rest.call("GET", path, authorization="device")).status == 400


async def rows(parts: Parts, table: str) -> list[Any]:
    query = Query(f"test.{table}", f"SELECT version FROM {table}", scan=True)
    return list(await parts.engine.read(query, {}))
