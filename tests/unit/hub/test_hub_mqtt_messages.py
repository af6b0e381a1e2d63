"""Cloud-to-device messages over MQTT (hub-device.md 2.6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from muster.hub.endpoints.mqtt_messages import MAX_UNACKNOWLEDGED
from muster.model.queued_message import Ack, QueuedMessage
from muster.wire.mqtt.packets import Puback, Publish, Suback, Subscribe, Unsuback, Unsubscribe

if TYPE_CHECKING:
    from muster.model.identity import IdentityRef
    from unit.hub.hub_parts import Client, Parts

FILTER = "devices/d1/messages/devicebound/#"
BARE = "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound"


async def send(parts: Parts, ref: IdentityRef, *bodies: bytes) -> None:
    for body in bodies:
        await parts.messaging.cloud_to_device.send(ref, QueuedMessage(body=body))


async def subscribe(client: Client, qos: int = 1, topic_filter: str = FILTER) -> None:
    client.send(Subscribe(7, [(topic_filter, qos)]))
    assert await client.take() == [Suback(7, [qos])]


async def count(parts: Parts, ref: IdentityRef) -> int:
    return (await parts.twins.get(ref)).cloud_to_device_message_count


async def until_left(parts: Parts, ref: IdentityRef, wanted: int = 0) -> None:
    async with asyncio.timeout(10):
        while await count(parts, ref) != wanted:  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.001)


async def test_the_topic_carries_all_properties_escaped(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    message = QueuedMessage(
        message_id="id 1",
        correlation_id="c&1",
        user_id="u",
        content_type="application/json",
        content_encoding="utf-8",
        expires_at=parts.clock.time() + 60,
        ack=Ack.FULL,
        properties={"a=b": "ü/+", "null": None, "empty": ""},
        body=b"\x00\xff",
    )
    await parts.messaging.cloud_to_device.send(ref, message)
    (packet,) = await client.take()
    assert packet == Publish(
        BARE + "&%24.mid=id%201&%24.cid=c%261&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8"
        "&%24.exp=2023-11-14T22%3A14%3A20Z&iothub-ack=full&a%3Db=%C3%BC%2F%2B&null&empty=",
        b"\x00\xff",
        1,
        1,
    )


async def test_puback_completes_and_nothing_else(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    await send(parts, ref, b"1", b"2")
    first, second = await client.take(2)
    assert (first.payload, second.payload) == (b"1", b"2")
    client.send(Puback(99), Puback(second.packet_id))
    await until_left(parts, ref, 1)
    await client.vanish()
    # The session is resumed: no new SUBSCRIBE.
    client = await parts.connect(ref)
    assert [each.payload for each in await client.take()] == [b"1"]
    client.send(Puback(1))
    await until_left(parts, ref)


async def test_messages_wait_for_the_first_subscription(parts: Parts) -> None:
    ref = await parts.device()
    await send(parts, ref, b"1")
    client = await parts.connect(ref, clean=True)
    await subscribe(client)
    assert [each.payload for each in await client.take()] == [b"1"]
    await client.disconnect()
    # CleanSession 1: nothing is remembered, so nothing comes until it subscribes.
    client = await parts.connect(ref, clean=True)
    client.publish("devices/d1/messages/events/")
    assert await client.take() == [Puback(1)]


async def test_the_window_is_bounded_and_moves(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    bodies = [str(number).encode() for number in range(MAX_UNACKNOWLEDGED + 4)]
    await send(parts, ref, *bodies)
    found = await client.take(MAX_UNACKNOWLEDGED)
    assert [each.payload for each in found] == bodies[:MAX_UNACKNOWLEDGED]
    client.publish("devices/d1/messages/events/")
    assert await client.take() == [Puback(1)]
    client.send(*(Puback(each.packet_id) for each in found))
    assert [each.payload for each in await client.take(4)] == bodies[MAX_UNACKNOWLEDGED:]


async def test_qos_0_completes_when_sent(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client, 0)
    await send(parts, ref, b"1")
    assert await client.take() == [Publish(BARE, b"1")]
    await until_left(parts, ref)


async def test_who_unsubscribes_gets_no_more(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    client.send(Unsubscribe(8, [FILTER]))
    assert await client.take() == [Unsuback(8)]
    await send(parts, ref, b"1")
    client.publish("devices/d1/messages/events/")
    assert await client.take() == [Puback(1)]
    await subscribe(client)
    assert [each.payload for each in await client.take()] == [b"1"]


async def test_takeover_moves_what_is_unacknowledged(parts: Parts) -> None:
    ref = await parts.device()
    older = await parts.connect(ref)
    await subscribe(older)
    await send(parts, ref, b"1")
    await older.take()
    newer = await parts.connect(ref)
    assert [each.payload for each in await newer.take()] == [b"1"]
    # Too late: the message is the newer connection's.
    older.send(Puback(1))
    newer.send(Puback(1))
    await until_left(parts, ref)


async def test_a_module_has_a_queue_of_its_own(parts: Parts) -> None:
    device = await parts.device()
    ref = await parts.module()
    for topic_filter in (
        "devices/d1/modules/m1/messages/devicebound/#",
        "devices/d1/modules/m1/#",
    ):
        client = await parts.connect(ref, clean=True)
        await subscribe(client, topic_filter=topic_filter)
        await send(parts, ref, b"module")
        await send(parts, device, b"device")
        (packet,) = await client.take()
        assert packet.payload == b"module"
        assert packet.topic == (
            "devices/d1/modules/m1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmodules%2Fm1"
            "%2Fmessages%2Fdevicebound"
        )
        client.send(Puback(packet.packet_id))
        await until_left(parts, ref)
        await client.disconnect()
    assert await count(parts, device) == 2


async def test_what_is_purged_on_its_way_is_acknowledged_in_vain(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    await send(parts, ref, b"1")
    (packet,) = await client.take()
    assert await parts.messaging.cloud_to_device.purge(ref) == 1
    client.send(Puback(packet.packet_id))
    await send(parts, ref, b"2")
    assert [each.payload for each in await client.take()] == [b"2"]


async def test_what_a_call_has_locked_comes_when_the_lock_is_over(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    await send(parts, ref, b"1")
    await client.take()
    await client.vanish()
    found = await parts.messaging.cloud_to_device.receive(ref)
    assert found is not None
    assert found.message.body == b"1"
    client = await parts.connect(ref)
    parts.clock.advance(61)
    await parts.messaging.tick()
    assert [each.payload for each in await client.take()] == [b"1"]


async def test_a_deleted_device_takes_its_messages_along(parts: Parts) -> None:
    ref = await parts.device()
    client = await parts.connect(ref)
    await subscribe(client)
    await send(parts, ref, b"1")
    await client.take()
    await parts.identities.delete(ref.hub, ref.device_id, "*")
    await client.gone()
    await parts.device()
    assert await count(parts, ref) == 0
    assert await parts.messaging.cloud_to_device.receive(ref) is None
