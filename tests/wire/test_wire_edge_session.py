"""The edge runtime's session with the hub, against a running service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.edge.upstream import trust
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import HubError, Link, Message, NoLinkError
from muster.edge.upstream.errors import RefusedError
from muster.edge.upstream.http import Https
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Transport
from muster.edge.upstream.session import MqttSession
from muster.edge.upstream.tuning import Tuning
from muster.ids import Randomness
from muster.net.dial import Dialler
from support.device import unique
from support.edge import SessionOwner, ShiftedClock, gateway, login, until
from support.events import events_of
from support.proxy import ProxyServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from muster.edge.upstream.login import Gateway, Login
    from support.instance import Instance

SOON = Backoff(first_s=0.2, cap_s=0.5)
TUNING = Tuning(unreachable=SOON, refused=SOON)


class Device:
    """A device, or a module of it, with its session."""

    def __init__(self, who: Login, where: Gateway, instance: Instance, **options: Any) -> None:
        self.owner = SessionOwner()
        self.clock = ShiftedClock(options.pop("clock_shift_s", 0.0))
        self.dialler = Dialler(trust.context(instance.ca_file))
        self.session = MqttSession(
            who,
            where,
            self.owner,
            dialler=self.dialler,
            time=HubTime(self.clock),
            randomness=Randomness(),
            **{"tuning": TUNING, **options},
        )
        self.session.open()

    def connected(self) -> bool:
        return self.session.link is Link.CONNECTED

    async def close(self) -> None:
        await self.session.close()
        await self.dialler.close(5.0)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Device]]:
    """Return a function that opens a session."""
    devices: list[Device] = []

    def begin(instance: Instance, who: Login, **options: Any) -> Device:
        where = options.pop("gateway", None) or gateway(instance)
        devices.append(Device(who, where, instance, **options))
        return devices[-1]

    yield begin
    for device in devices:
        await device.close()


def new_device(instance: Instance, prefix: str, **fields: Any) -> tuple[str, Login]:
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id, **fields)
    return device_id, login(instance, device_id, key)


def new_module(instance: Instance, prefix: str) -> tuple[str, Login]:
    device_id = unique(prefix)
    instance.hub().create_device(device_id, capabilities={"iotEdge": True})
    key, _ = instance.hub().create_module(device_id, "m1")
    return device_id, login(instance, device_id, key, "m1")


@pytest.mark.parametrize("way", list(Transport))
async def test_twin_methods_and_messages(
    instance: Instance, connect: Callable[..., Device], way: Transport
) -> None:
    device_id, who = new_device(instance, "up-all")
    device = connect(instance, who, ways=[way])
    await until(device.connected)
    hub = instance.hub()

    await device.session.report({"seen": {"a": 1}})
    twin = await device.session.twin()
    assert twin["reported"]["seen"] == {"a": 1}
    assert twin["desired"] == {"$version": 1}

    patch = {"properties": {"desired": {"wanted": 5}}}
    await asyncio.to_thread(hub.must, "PATCH", f"/twins/{device_id}", patch)
    await until(lambda: bool(device.owner.patches))
    assert device.owner.patches == [{"wanted": 5, "$version": 2}]

    call = {"methodName": "echo", "payload": {"x": 1}, "responseTimeoutInSeconds": 30}
    answer = await asyncio.to_thread(hub.must, "POST", f"/twins/{device_id}/methods", call)
    assert answer == {"status": 200, "payload": ["echo", {"x": 1}]}

    await asyncio.to_thread(hub.send_message, device_id, b"hello", properties={"k": "v"})
    await until(lambda: bool(device.owner.messages))
    assert device.owner.messages[0].body == b"hello"
    assert "k=v" in device.owner.messages[0].bag
    await until(lambda: hub.message_count(device_id) == 0)


@pytest.mark.parametrize("way", list(Transport))
async def test_telemetry_keeps_its_order(
    instance: Instance, connect: Callable[..., Device], way: Transport
) -> None:
    device_id, who = new_module(instance, "up-send")
    few = msgspec.structs.replace(TUNING, in_flight=8, in_flight_size=4096)
    device = connect(instance, who, ways=[way], tuning=few)
    await until(device.connected)
    bag = "$.ct=application%2Fjson&$.ce=utf-8&room=a%26b"
    bodies = [b'{"n":%d}' % number for number in range(200)]
    await asyncio.gather(*(device.session.send(Message(bag=bag, body=body)) for body in bodies))
    events = await asyncio.to_thread(events_of, instance, device_id, len(bodies))
    assert [event["body"] for event in events] == [{"n": number} for number in range(200)]
    assert events[0]["properties"] == {"room": "a&b"}


async def test_methods_are_answered_at_the_same_time(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    device_id, who = new_device(instance, "up-methods")
    device = connect(instance, who)
    await until(device.connected)
    both = asyncio.Barrier(2)

    async def meet(name: str) -> tuple[int, Any]:
        await both.wait()  # nobody gets past it alone
        return 200, name

    device.owner.answer = lambda name, _payload: meet(name)
    hub = instance.hub()

    def call(name: str) -> Any:
        body = {"methodName": name, "responseTimeoutInSeconds": 60}
        return hub.must("POST", f"/twins/{device_id}/methods", body)

    answers = await asyncio.gather(*(asyncio.to_thread(call, name) for name in ("a", "b")))
    assert [answer["payload"] for answer in answers] == ["a", "b"]

    async def fail() -> tuple[int, Any]:
        raise ValueError("broken")

    device.owner.answer = lambda _name, _payload: fail()
    answer = await asyncio.to_thread(call, "c")
    # What went wrong is for the log alone.
    said = {"message": "internal error; the device's log has more"}
    assert answer == {"status": 500, "payload": said}


async def test_a_message_that_is_not_taken_comes_again(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    device_id, who = new_device(instance, "up-again")
    device = connect(instance, who)
    await until(device.connected)
    device.owner.refusing = ValueError("not now")
    hub = instance.hub()
    await asyncio.to_thread(hub.send_message, device_id, b"once")
    await until(lambda: bool(device.owner.messages))
    assert [message.body for message in device.owner.messages] == [b"once"]
    assert (Link.UNREACHABLE, "a cloud-to-device message was not taken") in device.owner.links


async def test_refusals_of_the_hub_have_its_words(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    _, who = new_device(instance, "up-refusals")
    device = connect(instance, who)
    await until(device.connected)
    with pytest.raises(HubError) as refused:
        await device.session.report({"a.b": 1})
    assert refused.value.status == 400
    with pytest.raises(HubError) as refused:
        await device.session.send(Message(body=bytes(262_145)))
    assert refused.value.status == 413
    with pytest.raises(HubError) as refused:
        await device.session.send(Message(bag="a\0b"))
    assert refused.value.status == 400
    await device.session.send(Message(body=bytes(262_144)))  # the connection is still good


async def test_a_disabled_device_waits_until_it_is_enabled(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    device_id, who = new_device(instance, "up-disabled", status="disabled")
    device = connect(instance, who)
    await until(lambda: device.session.link is Link.REFUSED)
    with pytest.raises(NoLinkError):
        await device.session.send(Message(body=b"x"))
    with pytest.raises(NoLinkError):
        await device.session.twin()
    hub = instance.hub()
    identity = await asyncio.to_thread(hub.must, "GET", f"/devices/{device_id}")
    identity["status"] = "enabled"
    await asyncio.to_thread(hub.must, "PUT", f"/devices/{device_id}", identity, if_match="*")
    await until(device.connected)
    assert [link for link, _ in device.owner.links] == [Link.REFUSED, Link.CONNECTED]


async def test_a_blocked_port_is_gone_round(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    _, who = new_device(instance, "up-blocked")
    blocked = msgspec.structs.replace(gateway(instance), mqtt_port=9)
    device = connect(instance, who, gateway=blocked)
    await until(device.connected)
    await device.session.send(Message(body=b"over the WebSocket"))
    assert [link for link, _ in device.owner.links] == [Link.CONNECTED]


async def test_where_only_a_proxy_leads_out(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    _, who = new_device(instance, "up-proxy")
    async with ProxyServer().listening() as server:
        blocked = msgspec.structs.replace(gateway(instance), mqtt_port=9, proxy=server.proxy)
        device = connect(instance, who, gateway=blocked)
        await until(device.connected)
        await device.session.send(Message(body=b"through the proxy"))
        https = Https(blocked, trust.context(instance.ca_file), HubTime(device.clock))
        with pytest.raises(RefusedError) as unknown:  # the service's own answer, so it was reached
            await https.call("GET", "/devices/nobody", who.token, expect=frozenset({200}))
        assert unknown.value.status in {400, 401}
        await https.close()
        assert len(server.asked) == 2
        await device.close()


async def test_through_another_server_the_hub_is_still_named(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    """As an edge device below another one does: that one's name and certificate, the hub's user."""
    _, who = new_device(instance, "up-parent")
    device = connect(instance, who, gateway=gateway(instance, instance.place.hubs[1]))
    await until(device.connected)
    assert device.owner.links[0][1] == f"connected to {instance.place.hubs[1]}"


async def test_the_token_is_renewed_when_its_time_is_over(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    device_id, who = new_device(instance, "up-renew")
    short = msgspec.structs.replace(TUNING, token_s=300.0, renew_s=299.5)
    device = connect(instance, who, tuning=short)
    await until(device.connected)
    sent = 0
    first = device.session._connection
    while device.session._connection in {first, None}:
        await device.session.send(Message(body=b'{"n":%d}' % sent))
        await device.session.report({"n": sent})
        sent += 1
    await device.session.send(Message(body=b'{"n":%d}' % sent))
    # Whoever sends notices nothing, and nothing came twice.
    assert [link for link, _ in device.owner.links] == [Link.CONNECTED]
    events = await asyncio.to_thread(events_of, instance, device_id, sent + 1)
    assert len(events) == sent + 1


async def test_a_clock_that_is_set_makes_tokens_anew(
    instance: Instance, connect: Callable[..., Device]
) -> None:
    _, who = new_device(instance, "up-clock")
    hours = -5 * 3600.0
    never = Backoff(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    seldom = msgspec.structs.replace(TUNING, refused=never)
    device = connect(instance, who, clock_shift_s=hours, tuning=seldom)
    await until(lambda: device.session.link is Link.REFUSED)
    device.clock.shift_s = 0.0
    await until(device.connected)
    # Once more while it is connected: the token that it has says nothing any more.
    first = device.session._connection
    device.clock.shift_s = 120.0
    await until(lambda: device.session._connection not in {first, None} and device.connected())
    assert [link for link, _ in device.owner.links] == [Link.REFUSED, Link.CONNECTED]


async def test_a_hub_that_restarts(
    new_instance: Callable[..., Instance], connect: Callable[..., Device]
) -> None:
    instance = await asyncio.to_thread(new_instance)
    device_id, who = await asyncio.to_thread(new_device, instance, "up-restart")
    device = connect(instance, who)
    await until(device.connected)
    await asyncio.to_thread(instance.kill9)
    await until(lambda: device.session.link is Link.UNREACHABLE)
    await asyncio.to_thread(instance.start)
    await until(device.connected)
    await device.session.send(Message(body=b"back"))
    hub = instance.hub()
    call = {"methodName": "echo", "payload": 1, "responseTimeoutInSeconds": 30}
    answer = await asyncio.to_thread(hub.must, "POST", f"/twins/{device_id}/methods", call)
    assert answer["status"] == 200
