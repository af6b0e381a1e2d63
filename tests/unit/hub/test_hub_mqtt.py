"""MQTT connections to a hub: CONNECT, presence and takeover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import sas_token, symmetric_keys
from muster.model.identity import DeviceRequest, IdentityRef
from muster.net.mqtt import Refused
from muster.net.peer import CLOSED_BY_CLIENT
from muster.wire.mqtt.packets import Puback
from unit.hub.hub_parts import HOST, KEY2, Parts, Peer, build, will_of
from unit.hub.mqtt_cases import D1, EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import ManualClock
    from unit.hub.hub_parts import Parts


# CONNECT.


async def test_both_keys_and_policies_let_in(parts: Parts) -> None:
    ref = await parts.device()
    policies = parts.hub.policies
    expiry = int(parts.clock.time()) + 600

    def by_policy(name: str, resource: str) -> str:
        key = symmetric_keys.decode(policies[name].keys.secondary)
        return sas_token.sign(resource, key, expiry, name)

    passwords = [
        parts.token(ref),
        parts.token(ref, KEY2),
        by_policy("device", f"{HOST}/devices/d1"),
        by_policy("iothubowner", HOST),
    ]
    for password in passwords:
        client = await parts.connect(ref, password=password)
        await client.disconnect()
    assert await parts.refused(ref, password=by_policy("service", HOST)) == 5
    assert "missing-right" in await parts.checks("d1")


# What is wrong with the CONNECT of the device d1: the options of `Parts.connect_packet`.
REFUSALS: dict[str, tuple[int, Callable[[Parts], dict[str, Any]]]] = {
    "wrong-key": (5, lambda parts: {"password": parts.token(D1, "QUFBQUFBQUFBQUFBQUFBQUFBQUE=")}),
    "key-used-undecoded": (5, lambda parts: {"password": undecoded(parts)}),
    "token-expired": (5, lambda _: {"ttl_s": -301}),
    "wrong-audience": (5, lambda parts: {"password": parts.token(IdentityRef(1, "other"))}),
    "token-missing": (5, lambda _: {"password": None}),
    "token-malformed": (5, lambda _: {"password": "hello"}),
    "client-id-mismatch": (2, lambda _: {"client_id": "D1"}),
    "malformed-username": (4, lambda _: {"username": "d1"}),
    "unknown-hub": (5, lambda _: {"username": "elsewhere/d1/?api-version=2021-04-12"}),
    "topic-not-allowed": (5, lambda _: {"will": will_of("devices/d2/messages/events/", b"")}),
}


def undecoded(parts: Parts) -> str:
    return sas_token.sign(f"{HOST}/devices/d1", KEY2.encode(), int(parts.clock.time()) + 60)


@pytest.mark.parametrize("check", REFUSALS)
async def test_every_refusal_has_its_reason(parts: Parts, check: str) -> None:
    ref = await parts.device()
    code, options = REFUSALS[check]
    assert await parts.refused(ref, **options(parts)) == code
    subject = "D1" if check == "client-id-mismatch" else "d1"
    assert await parts.checks(subject) == [check]


async def test_who_is_unknown_or_disabled_is_refused(parts: Parts) -> None:
    ref = await parts.device(status="disabled")
    for who, check in (
        (ref, "device-disabled"),
        (IdentityRef(ref.hub, "other"), "unknown-device"),
        (IdentityRef(ref.hub, "d1", "m1"), "unknown-module"),
    ):
        assert await parts.refused(who) == 5
        assert await parts.checks(who.text) == [check]


async def test_a_token_is_good_for_five_minutes_more(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref, ttl_s=-299)
    parts.clock.advance(2)
    await parts.connections.tick()
    assert await client.gone() == "the SAS token expired"
    assert await parts.checks("d1") == ["connection-expired"]


async def test_a_module_uses_its_own_key_and_topics(parts: Parts) -> None:
    await parts.device()
    ref = await parts.module()
    device_token = parts.token(IdentityRef(ref.hub, "d1"))
    assert await parts.refused(ref, password=device_token) == 5
    client = await parts.connect(ref)
    client.publish("devices/d1/modules/m1/messages/events/%24.on=out1/", b"1")
    assert await client.take() == [Puback(1)]
    (event,) = await parts.events()
    assert event.module_id == "m1"
    assert event.system_properties["iothub-outputname"] == "out1"
    assert event.system_properties["iothub-connection-module-id"] == "m1"
    client.publish(EVENTS)
    await client.gone()


async def test_a_connect_that_is_barred_meanwhile_is_refused(parts: Parts) -> None:
    ref = await parts.device()
    for _ in range(5):
        await (await parts.connect(ref)).disconnect()
    # The sixth has to wait for its turn; meanwhile the device is disabled.
    parts.clock.advance(0.8)
    accepting = asyncio.ensure_future(parts.mqtt.accept(parts.connect_packet(ref), Peer()))
    await asyncio.sleep(0.05)
    await parts.identities.update(ref.hub, "d1", DeviceRequest(status="disabled"), "*")
    answer = await accepting
    assert isinstance(answer, Refused)
    assert parts.connections.get(ref) is None


async def test_a_duel_is_slowed_down_and_nobody_else(parts: Parts, clock: ManualClock) -> None:
    ref, other = await parts.device(), await parts.device("d2")
    waits: list[float] = []
    for _ in range(5):
        await parts.connect(ref)
    for _ in range(5):
        wait_s = parts.connections.pacer.reserve(ref, clock.monotonic())
        assert wait_s is not None
        waits.append(wait_s)
    assert waits == pytest.approx([1, 2, 3, 4, 5])
    assert await parts.refused(ref) == 3
    assert "throttled" in await parts.checks("d1")
    await parts.connect(other)
    clock.advance(11)
    await parts.connect(ref)


async def test_refused_clients_do_not_use_up_the_turns_of_the_device(parts: Parts) -> None:
    ref = await parts.device()
    delays = []
    for _ in range(20):
        answer = await parts.mqtt.accept(parts.connect_packet(ref, password="x"), Peer())
        assert isinstance(answer, Refused)
        delays.append(answer.delay_s)
    assert delays[4] == 0 < delays[5] <= delays[-1] <= 5
    assert len(await parts.checks("d1")) < 15
    await asyncio.wait_for(parts.connect(ref), 0.5)


async def test_a_client_that_did_not_wait_takes_nothing_over(parts: Parts) -> None:
    ref = await parts.device()
    for _ in range(5):
        old = await parts.connect(ref)
    parts.clock.advance(0.9)
    peer = Peer()
    accepting = asyncio.ensure_future(parts.mqtt.accept(parts.connect_packet(ref), peer))
    await asyncio.sleep(0.02)
    peer.close("connection lost")
    assert isinstance(await accepting, Refused)
    assert not old.peer.closed


# Presence and takeover.


async def test_takeover(parts: Parts) -> None:
    ref = await parts.device()
    old = await parts.connect(ref)
    parts.clock.advance(10)
    new = await parts.connect(ref)
    assert "taken over" in await old.gone()
    assert not new.peer.closed
    assert (await parts.identities.get(ref.hub, "d1")).connection_state == "Connected"
    assert parts.connections.connected_devices(ref.hub) == 1
    assert await parts.checks("d1") == ["taken-over"]


async def test_a_renewal_is_no_takeover(parts: Parts) -> None:
    ref = await parts.device()
    old = await parts.connect(ref)
    # DISCONNECT was read, but the session has not heard of the end yet.
    old.peer.closed = True
    new = await parts.connect(ref)
    old.peer.reason = CLOSED_BY_CLIENT
    old.peer.lost(graceful=True)
    assert not new.peer.closed
    assert (await parts.identities.get(ref.hub, "d1")).connection_state == "Connected"
    assert await parts.checks("d1") == []


async def test_presence_is_true_and_survives(parts: Parts, clock: ManualClock) -> None:
    ref = await parts.device()
    connected_at = clock.now()
    client = await parts.connect(ref)
    clock.advance(100)
    client.publish(EVENTS)
    await client.take()
    during = await parts.identities.get(ref.hub, "d1")
    assert during.connection_state == "Connected"
    assert during.connection_state_updated_time == connected_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert during.last_activity_time == clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    clock.advance(100)
    await client.disconnect()
    gone = await parts.identities.get(ref.hub, "d1")
    assert gone.connection_state == "Disconnected"
    assert gone.connection_state_updated_time == clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    assert gone.last_activity_time == during.last_activity_time
    await parts.connections.tick()
    assert await parts.identities.get(ref.hub, "d1") == gone
    twin = await parts.twins.get(ref)
    assert (twin.connection_state, twin.last_activity_time) == (
        "Disconnected",
        gone.last_activity_time,
    )


async def test_after_a_crash_everything_is_disconnected(tmp_path: Path, clock: ManualClock) -> None:
    first = await build(tmp_path, clock)
    ref = await first.device()
    await first.connect(ref)
    for _ in range(4):
        clock.advance(10)
        await first.connections.tick()
    alive_until = clock.now()
    await first.crash()
    clock.advance(1000)
    second = await build(tmp_path, clock)
    identity = await second.identities.get(ref.hub, "d1")
    assert identity.connection_state == "Disconnected"
    assert identity.connection_state_updated_time == alive_until.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (await second.twins.get(ref)).connection_state == "Disconnected"
    await second.close()


@pytest.mark.parametrize("what", ["disable", "delete", "delete module"])
async def test_barring_an_identity_ends_its_connections_at_once(parts: Parts, what: str) -> None:
    ref = await parts.device()
    module = await parts.module()
    client, module_client = await parts.connect(ref), await parts.connect(module)
    match what:
        case "disable":
            await parts.identities.update(ref.hub, "d1", DeviceRequest(status="disabled"), "*")
        case "delete":
            await parts.identities.delete(ref.hub, "d1", "*")
        case _:
            await parts.modules.delete(module, "*")
    assert module_client.peer.closed
    assert client.peer.closed is (what != "delete module")
    assert "was deleted" in await module_client.gone() or what == "disable"
    assert (await parts.checks("d1/m1"))[0] == "connection-closed"
