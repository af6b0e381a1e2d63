"""Cloud-to-device messages and their feedback: limits, batches, restarts (hub-device.md 7)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import (
    ForbiddenError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    TooLargeError,
)
from muster.hub.feedback_records import BATCH_AGE_S, BATCH_SIZE
from muster.hub.service_bound import FILE_NOTIFICATION_TYPE, FileNotification
from muster.model.identity import IdentityRef
from muster.model.queued_message import MAX_TTL_S, Ack, Outcome, QueuedMessage
from unit.hub.hub_parts import build

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import ManualClock
    from unit.hub.hub_parts import Parts


async def refusal(parts: Parts, ref: IdentityRef, **fields: Any) -> MusterError:
    with pytest.raises(MusterError) as caught:
        await parts.messaging.cloud_to_device.send(ref, QueuedMessage(**fields))
    return caught.value


async def feedback(parts: Parts) -> list[dict[str, Any]]:
    """Receive and complete all batches; return their records."""
    records = []
    while (batch := await parts.messaging.feedback.receive(parts.hub.id)) is not None:
        records += json.loads(batch.message.body)
        await parts.messaging.feedback.complete(parts.hub.id, batch.lock_token)
    return records


async def test_limits(parts: Parts) -> None:
    ref = await parts.device()
    now = parts.clock.time()
    too_large = await refusal(parts, ref, body=bytes(65_537))
    assert (type(too_large), too_large.code) == (TooLargeError, "message-too-large")
    heavy = await refusal(parts, ref, properties={"a": "x" * 16_384})
    assert (type(heavy), heavy.code) == (TooLargeError, "properties-too-large")
    for wrong in (now, now + MAX_TTL_S + 1):
        late = await refusal(parts, ref, expires_at=wrong)
        assert (type(late), late.code) == (InvalidArgumentError, "invalid-expiry")
    assert (await refusal(parts, ref, message_id="x" * 129)).code == "invalid-message-id"
    assert (await refusal(parts, ref, properties={"": "x"})).code == "invalid-property"
    # It would never leave for a device on AMQP, nor let the next one pass.
    for name in ("content_type", "content_encoding"):
        assert (await refusal(parts, ref, **{name: "n\u00fc"})).code == "invalid-property"
    await parts.messaging.cloud_to_device.send(
        ref, QueuedMessage(body=bytes(65_536 - 3), message_id="abc", expires_at=now + MAX_TTL_S)
    )


async def test_the_51st_message_is_refused(parts: Parts) -> None:
    await parts.device()
    module = await parts.module()
    for _ in range(50):
        await parts.messaging.cloud_to_device.send(module, QueuedMessage())
    full = await refusal(parts, module)
    assert (type(full), full.code) == (ForbiddenError, "queue-full")
    await parts.messaging.cloud_to_device.send(IdentityRef(module.hub, "d1"), QueuedMessage())
    twin = await parts.twins.get(module)
    assert twin.cloud_to_device_message_count == 50


async def test_only_who_exists_has_a_queue(parts: Parts) -> None:
    ref = await parts.device()
    for missing, code in (
        (IdentityRef(ref.hub, "d2"), "device-not-found"),
        (IdentityRef(ref.hub, "d1", "m1"), "module-not-found"),
    ):
        error = await refusal(parts, missing)
        assert (type(error), error.code) == (NotFoundError, code)
        with pytest.raises(NotFoundError):
            await parts.messaging.cloud_to_device.purge(missing)


async def test_feedback_leaves_after_15_seconds(parts: Parts) -> None:
    ref = await parts.device()
    messages = parts.messaging.cloud_to_device
    for ack in Ack:
        for number in range(2):
            await messages.send(ref, QueuedMessage(message_id=f"{ack}-{number}", ack=ack))
    for settle in (messages.complete, messages.reject) * 4:
        delivery = await messages.receive(ref)
        assert delivery is not None
        await settle(ref, delivery.lock_token)
    await parts.messaging.tick()
    assert await feedback(parts) == []
    ended_at = "2023-11-14T22:13:20Z"
    parts.clock.advance(BATCH_AGE_S)
    await parts.messaging.tick()
    generation_id = (await parts.identities.get(ref.hub, "d1")).generation_id
    assert await feedback(parts) == [
        {
            "originalMessageId": message_id,
            "enqueuedTimeUtc": ended_at,
            "statusCode": outcome,
            "description": outcome,
            "deviceId": "d1",
            "deviceGenerationId": generation_id,
        }
        for message_id, outcome in (
            ("positive-0", "Success"),
            ("negative-1", "Rejected"),
            ("full-0", "Success"),
            ("full-1", "Rejected"),
        )
    ]


async def test_64_records_do_not_wait(parts: Parts) -> None:
    refs = [await parts.device(f"d{number}") for number in range(2)]
    for number in range(BATCH_SIZE + 1):
        message = QueuedMessage(message_id=str(number), ack=Ack.NEGATIVE)
        await parts.messaging.cloud_to_device.send(refs[number % 2], message)
    for ref in refs:
        await parts.messaging.cloud_to_device.purge(ref)
    await parts.messaging.tick()
    records = await feedback(parts)
    assert len(records) == BATCH_SIZE
    assert {each["statusCode"] for each in records} == {Outcome.PURGED}
    parts.clock.advance(BATCH_AGE_S)
    await parts.messaging.tick()
    assert len(await feedback(parts)) == 1


async def test_feedback_survives_a_restart_and_goes_with_its_device(
    tmp_path: Path, clock: ManualClock
) -> None:
    parts = await build(tmp_path, clock)
    refs = [await parts.device(f"d{number}") for number in range(2)]
    for ref in refs:
        message = QueuedMessage(message_id=ref.device_id, ack=Ack.FULL, expires_at=clock.time() + 5)
        await parts.messaging.cloud_to_device.send(ref, message)
    clock.advance(6)
    await parts.messaging.tick()
    await parts.crash()
    parts = await build(tmp_path, clock)
    await parts.identities.delete(refs[0].hub, "d0", "*")
    clock.advance(BATCH_AGE_S)
    await parts.messaging.tick()
    assert [(each["originalMessageId"], each["statusCode"]) for each in await feedback(parts)] == [
        ("d1", "Expired")
    ]
    await parts.close()


async def test_an_abandoned_batch_comes_again(parts: Parts) -> None:
    note = FileNotification("d1", "https://h/b", "d1/f", "2023-11-14T22:13:20Z", 3, "x")
    await parts.messaging.file_notifier.notify(parts.hub.id, note)
    queue = parts.messaging.file_notifications
    first = await queue.receive(parts.hub.id)
    assert first is not None
    assert await queue.receive(parts.hub.id) is None
    await queue.abandon(parts.hub.id, first.lock_token)
    second = await queue.receive(parts.hub.id)
    assert second is not None
    assert second.delivery_count == 1
    assert second.message.content_type == FILE_NOTIFICATION_TYPE
    assert json.loads(second.message.body)["blobName"] == "d1/f"


async def test_several_back_ends_share_a_queue(parts: Parts) -> None:
    woken: list[str] = []
    ends = [
        parts.messaging.file_notifications.attach(
            parts.hub.id, lambda name=name: woken.append(name), lock_s=60
        )
        for name in "ab"
    ]
    for number in range(3):
        note = FileNotification("d1", "u", f"d1/{number}", "x", number, "x")
        await parts.messaging.file_notifier.notify(parts.hub.id, note)
    assert woken == ["a", "b"] * 3
    (first,), (second, third) = await ends[0].take(1), await ends[1].take(9)
    assert [each.message.body.count(b"d1/0") for each in (first, second, third)] == [1, 0, 0]
    ends[1].close()
    assert woken[6:] == ["a"]
    assert [each.sequence_number for each in await ends[0].take(9)] == [
        second.sequence_number,
        third.sequence_number,
    ]
    parts.clock.advance(60)
    await parts.messaging.tick()
    assert len(await ends[0].take(9)) == 3


async def test_what_is_given_back_too_late_ends_at_once(parts: Parts) -> None:
    ref = await parts.device()
    messages = parts.messaging.cloud_to_device
    now = parts.clock.time()
    for number in range(3):
        await messages.send(
            ref, QueuedMessage(message_id=str(number), ack=Ack.FULL, expires_at=now + 20)
        )
    receiver = messages.attach(ref, lambda: None)
    await receiver.take(1)
    locked = [await messages.receive(ref) for _ in range(2)]
    parts.clock.advance(21)
    await parts.messaging.tick()
    assert (await parts.twins.get(ref)).cloud_to_device_message_count == 3
    receiver.close()
    await parts.messaging.tick()
    assert (await parts.twins.get(ref)).cloud_to_device_message_count == 2
    assert locked[0] is not None
    await messages.abandon(ref, locked[0].lock_token)
    await parts.messaging.tick()
    assert (await parts.twins.get(ref)).cloud_to_device_message_count == 1
    parts.clock.advance(39)
    await parts.messaging.tick()
    assert [(each["originalMessageId"], each["statusCode"]) for each in await feedback(parts)] == [
        ("0", "Expired"),
        ("1", "Expired"),
        ("2", "Expired"),
    ]


async def test_connections_hear_of_locks_that_ran_out(parts: Parts) -> None:
    ref = await parts.device()
    messages = parts.messaging.cloud_to_device
    woken: list[None] = []
    receiver = messages.attach(ref, lambda: woken.append(None))
    await messages.send(ref, QueuedMessage())
    await parts.messaging.tick()
    assert await messages.receive(ref, 5) is not None
    assert await receiver.take(9) == []
    woken.clear()
    parts.clock.advance(5)
    await parts.messaging.tick()
    assert len(woken) == 1
    assert len(await receiver.take(9)) == 1
