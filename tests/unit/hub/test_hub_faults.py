"""Injected faults: whom they meet, for how long, and what MQTT and HTTPS make of them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import ConflictError, InvalidArgumentError, NotFoundError
from muster.faults.live import MAX_FAULTS, LiveFault
from muster.hub.twins import TwinRequest
from muster.model.fault import Fault, FaultError, FaultKind, FaultTransport
from muster.model.identity import IdentityRef
from muster.net.routing import TRANSPORT
from muster.wire.mqtt.packets import Puback, Publish
from unit.hub.hub_parts import Parts, Peer, build, until
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import ManualClock

EVENTS = "devices/d1/messages/events/"
GET = "$iothub/twin/GET/?$rid="
TYPE = "AzIoTHub_FaultOperationType"


async def create(parts: Parts, kind: FaultKind, **fields: Any) -> LiveFault:
    if parts.hub.faults is None:
        await parts.faults.switch(parts.hub, on=True)
    if not fields.keys() & {"prefix", "target_condition"}:
        fields.setdefault("device_ids", frozenset({"d1"}))
    duration_s = fields.pop("duration_s", 60.0)
    wanted = Fault(id="", kind=kind, created_at=0.0, expires_at=duration_s, **fields)
    return await parts.faults.create(parts.hub, wanted)


def met(parts: Parts, device_id: str = "d1") -> bool:
    assert parts.hub.faults is not None
    ref = IdentityRef(parts.hub.id, device_id)
    return parts.hub.faults.choose(ref, frozenset(FaultKind), FaultTransport.MQTT) is not None


# Who meets what, and how long.


async def test_nothing_without_the_switch(parts: Parts) -> None:
    await parts.device()
    with pytest.raises(ConflictError, match="off"):
        await parts.faults.create(
            parts.hub,
            Fault(id="", kind=FaultKind.RESET, prefix="d", created_at=0.0, expires_at=9.0),
        )
    client = await parts.connect(IdentityRef(parts.hub.id, "d1"))
    client.publish(f"{EVENTS}{TYPE}=KillTcp&x=1", b"ordinary")
    assert await client.take() == [Puback(1)]
    await asyncio.sleep(0.15)
    assert not client.peer.closed
    (event,) = await parts.events()
    assert event.properties == {TYPE: "KillTcp", "x": "1"}


async def test_a_fault_ends_by_itself(parts: Parts) -> None:
    live = await create(parts, FaultKind.DROP, duration_s=10.0)
    assert met(parts)
    assert not met(parts, "d2")
    parts.clock.advance(9.9)
    assert met(parts)
    parts.clock.advance(0.2)
    assert not met(parts)
    assert parts.hub.faults is not None
    assert parts.hub.faults.all() == []
    assert live.injected == 2
    with pytest.raises(NotFoundError):
        parts.hub.faults.find(live.fault.id)


async def test_the_switch_is_stored_and_faults_are_not(
    parts: Parts, tmp_path: Path, clock: ManualClock
) -> None:
    await create(parts, FaultKind.DROP)
    again = await build(tmp_path, clock)
    assert again.hub.faults is not None
    assert again.hub.faults.all() == []
    await again.faults.switch(again.hub, on=False)
    assert again.hub.faults is None
    await again.close()


async def test_chances(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(parts, FaultKind.DROP, probability=0.25)
    monkeypatch.setattr(
        parts.randomness, "token_bytes", lambda size: b"\x3f" + b"\xff" * (size - 1)
    )
    assert met(parts)
    monkeypatch.setattr(parts.randomness, "token_bytes", lambda size: b"\x40" + bytes(size - 1))
    assert not met(parts)


async def test_conditions_follow_the_twins(parts: Parts) -> None:
    ref = await parts.device()
    await parts.device("d2")
    await parts.twins.change(
        ref, TwinRequest(tags={"ring": "canary"}), if_match=None, replace=False
    )
    live = await create(parts, FaultKind.DROP, target_condition="tags.ring = 'canary'")
    assert live.chosen == {"d1"}
    assert met(parts)
    d2 = IdentityRef(parts.hub.id, "d2")
    client = await parts.connect(d2)
    refusing = await create(parts, FaultKind.REFUSE, target_condition="tags.ring = 'canary'")
    assert not client.peer.closed
    await parts.twins.change(d2, TwinRequest(tags={"ring": "canary"}), if_match=None, replace=False)
    await until(lambda: client.peer.closed)
    assert refusing.chosen == {"d1", "d2"}
    await parts.twins.change(ref, TwinRequest(tags={"ring": None}), if_match=None, replace=False)
    await until(lambda: live.chosen == {"d2"})
    everybody = await create(parts, FaultKind.DELAY, target_condition="*", delay_s=1.0)
    assert everybody.chosen == {"d1", "d2"}
    await parts.device("d3")
    await until(lambda: "d3" in everybody.chosen)
    for wrong in ("tags.a =", "tag.a = 1"):
        with pytest.raises(InvalidArgumentError):
            await create(parts, FaultKind.DROP, target_condition=wrong)


async def test_there_are_not_too_many(parts: Parts) -> None:
    for _ in range(MAX_FAULTS):
        live = await create(parts, FaultKind.DROP)
    with pytest.raises(ConflictError):
        await create(parts, FaultKind.DROP)
    assert parts.hub.faults is not None
    parts.hub.faults.delete(live.fault.id)
    await create(parts, FaultKind.DROP)


async def test_injections_are_on_record_once_a_second(parts: Parts) -> None:
    live = await create(parts, FaultKind.DROP)
    for _ in range(5):
        assert met(parts)
    parts.clock.advance(1.5)
    assert met(parts)
    newest, first = await parts.decisions.find("d1")
    assert {first.check, newest.check} == {"fault-injected"}
    assert (first.operation, first.outcome) == ("fault", "dropped")
    assert first.facts["fault"] == live.fault.id
    assert (first.facts["times"], newest.facts["times"]) == (1, 5)
    assert live.injected == 6
    text = parts.metrics.exposition().decode()
    assert 'muster_faults_injected_total{kind="drop"} 6.0' in text


# MQTT.


async def test_connects(parts: Parts) -> None:
    ref = await parts.device()
    live = await create(parts, FaultKind.REFUSE)
    assert await parts.refused(ref) == 3
    # Whoever does not prove who it is, does not learn of faults.
    assert await parts.refused(ref, password="nothing") == 5
    assert parts.hub.faults is not None
    parts.hub.faults.delete(live.fault.id)
    live = await create(parts, FaultKind.REFUSE, error=FaultError.UNAUTHORIZED)
    assert await parts.refused(ref) == 5
    parts.hub.faults.delete(live.fault.id)
    live = await create(parts, FaultKind.THROTTLE)
    assert await parts.refused(ref) == 3
    parts.hub.faults.delete(live.fault.id)
    await create(parts, FaultKind.RESET)
    peer = Peer()
    await parts.mqtt.accept(parts.connect_packet(ref), peer)
    assert peer.was_reset


@pytest.mark.parametrize(("kind", "reset"), [(FaultKind.REFUSE, False), (FaultKind.RESET, True)])
async def test_connections_that_are_there(parts: Parts, kind: FaultKind, *, reset: bool) -> None:
    device = await parts.connect(await parts.device())
    module = await parts.connect(await parts.module())
    other = await parts.connect(await parts.device("d2"))
    await create(parts, kind)
    assert device.peer.closed
    assert module.peer.closed
    assert not other.peer.closed
    assert device.peer.was_reset is reset


async def test_dropped_messages_are_stored_and_not_acknowledged(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    await create(parts, FaultKind.DROP)
    client.send(Publish(f"{EVENTS}a=1", b"one", 1, 1), Publish(GET + "1", b"", 0))
    assert client.peer.closed
    await until(lambda: parts.telemetry.log(parts.hub).bounds(_partition(parts))[1] == 1)
    assert client.peer.packets == []
    (event,) = await parts.events()
    assert event.properties == {"a": "1"}


async def test_requests_are_not_dropped(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    await create(parts, FaultKind.DROP)
    client.publish(GET + "1", packet_id=None)
    (answer,) = await client.take()
    assert isinstance(answer, Publish)
    assert answer.topic.startswith("$iothub/twin/res/200/")


@pytest.mark.parametrize(
    ("error", "status"), [(FaultError.THROTTLED, 429), (FaultError.QUOTA_EXCEEDED, 403)]
)
async def test_throttled(parts: Parts, error: FaultError, status: int) -> None:
    client = await parts.connect(await parts.device())
    await create(parts, FaultKind.THROTTLE, error=error)
    client.publish(GET + "1", packet_id=None)
    (answer,) = await client.take()
    assert isinstance(answer, Publish)
    assert answer.topic.startswith(f"$iothub/twin/res/{status}/")
    client.publish(EVENTS, b"too much")
    assert client.peer.closed
    assert await parts.events() == []


async def test_delayed_packets_keep_their_order(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    live = await create(parts, FaultKind.DELAY, delay_s=0.2)
    client.publish(EVENTS, b"one", 1)
    assert client.peer.paused
    # Under way when reading was paused; faults may be gone by then.
    await parts.faults.switch(parts.hub, on=False)
    client.publish(EVENTS, b"two", 2)
    assert client.peer.packets == []
    assert await client.take(2) == [Puback(1), Puback(2)]
    assert not client.peer.paused
    assert live.injected == 1
    assert [event.body for event in await parts.events()] == ["one", "two"]


async def test_what_is_delayed_is_not_lost_at_the_end(parts: Parts) -> None:
    client = await parts.connect(await parts.device())
    await create(parts, FaultKind.DELAY, delay_s=300.0)
    client.publish(EVENTS, b"last words", None)
    await client.disconnect()
    await until(lambda: parts.telemetry.log(parts.hub).bounds(_partition(parts))[1] == 1)


def _partition(parts: Parts) -> int:
    from muster.hub.telemetry import partition_of

    return partition_of("d1", parts.telemetry.partitions)


# What devices order for themselves.


async def test_orders(parts: Parts) -> None:
    await parts.faults.switch(parts.hub, on=True)
    ref = await parts.device()

    async def ordered(operation: str, duration_s: int = 60) -> Any:
        client = await parts.connect(ref)
        properties = f"{TYPE}={operation}&AzIoTHub_FaultOperationDurationInSecs={duration_s}"
        client.publish(EVENTS + properties, b"x")
        assert await client.take() == [Puback(1)]
        assert parts.hub.faults is not None
        faults = parts.hub.faults
        if duration_s:
            await until(lambda: bool(faults.all()))
        else:
            await until(lambda: client.peer.closed)
        return client

    client = await ordered("KillTcp")
    await until(lambda: client.peer.was_reset)
    peer = Peer()
    await parts.mqtt.accept(parts.connect_packet(ref), peer)
    assert peer.was_reset
    parts.clock.advance(61)

    client = await ordered("ShutDownMqtt")
    await until(lambda: client.peer.closed)
    assert not client.peer.was_reset
    assert await parts.refused(ref) == 3
    parts.clock.advance(61)

    client = await ordered("InvokeAuthError")
    await until(lambda: client.peer.closed)
    assert await parts.refused(ref) == 5
    parts.clock.advance(61)

    for operation in ("InvokeThrottling", "InvokeMaxMessageQuota"):
        client = await ordered(operation)
        client.publish(EVENTS, b"y")
        await until(lambda client=client: client.peer.closed)  # type: ignore[misc]
        parts.clock.advance(61)

    client = await ordered("KillAmqpConnection")
    assert not client.peer.closed
    parts.clock.advance(61)
    # Without a duration it happens once.
    await ordered("KillTcp", 0)
    await parts.connect(ref)
    facts = [decision.facts.get("by") for decision in await parts.decisions.find("d1")]
    assert "the device itself: KillTcp" in facts


async def test_an_order_that_waits_ends_with_the_switch(parts: Parts) -> None:
    await parts.faults.switch(parts.hub, on=True)
    client = await parts.connect(await parts.device())
    client.publish(f"{EVENTS}{TYPE}=KillTcp", b"x")
    await client.take()
    await parts.faults.switch(parts.hub, on=False)
    await asyncio.sleep(0.15)
    assert not client.peer.closed


# HTTPS.


class Broken:
    """The transport of a request; hangs up when it is broken off."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


async def test_https(parts: Parts, rest: Rest) -> None:
    ref = await parts.device()

    async def send() -> Any:
        path = "/devices/d1/messages/events"
        return await rest.call("POST", path, b"x", authorization=parts.token(ref))

    for kind, error, status in (
        (FaultKind.REFUSE, None, 503),
        (FaultKind.REFUSE, FaultError.UNAUTHORIZED, 401),
        (FaultKind.THROTTLE, None, 429),
        (FaultKind.THROTTLE, FaultError.QUOTA_EXCEEDED, 403),
        (FaultKind.DELAY, None, 204),
    ):
        delay_s = 0.01 if kind is FaultKind.DELAY else 0.0
        live = await create(parts, kind, error=error, delay_s=delay_s)
        reply = await send()
        assert reply.status == status
        assert (reply.headers.get("retry-after") == "5") is (status == 429)
        assert parts.hub.faults is not None
        parts.hub.faults.delete(live.fault.id)
    assert len(await parts.events()) == 1


@pytest.mark.parametrize(("kind", "stored"), [(FaultKind.DROP, 1), (FaultKind.RESET, 0)])
async def test_https_connections_break(
    parts: Parts, rest: Rest, kind: FaultKind, stored: int
) -> None:
    ref = await parts.device()
    await create(parts, kind)
    transport = Broken()
    sent: list[Any] = []
    incoming = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"x"}]

    async def receive() -> Any:
        return incoming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/devices/d1/messages/events",
        "query_string": b"api-version=2021-04-12",
        "headers": [(b"host", b"hub.example"), (b"authorization", parts.token(ref).encode())],
        TRANSPORT: transport,
    }
    await rest.router(scope, receive, send)
    assert transport.aborted
    assert sent == []
    assert len(await parts.events()) == stored


async def test_orders_over_https(parts: Parts, rest: Rest) -> None:
    await parts.faults.switch(parts.hub, on=True)
    ref = await parts.device()
    reply = await rest.call(
        "POST",
        "/devices/d1/messages/events",
        [
            {
                "body": "eA==",
                "properties": {
                    TYPE: "InvokeThrottling",
                    "AzIoTHub_FaultOperationDurationInSecs": "60",
                },
            }
        ],
        authorization=parts.token(ref),
        headers={"content-type": "application/vnd.microsoft.iothub.json"},
    )
    assert reply.status == 204
    assert parts.hub.faults is not None
    faults = parts.hub.faults
    await until(lambda: bool(faults.all()))
    again = await rest.call(
        "GET", "/devices/d1/messages/deviceBound", authorization=parts.token(ref)
    )
    assert again.status == 429
    assert json.loads(again.body)["Message"].startswith("ErrorCode:ThrottlingException")
