"""Routes at work: messages of devices to the logs, from the log to the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from muster.hub import routing_endpoints
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import ANY
from muster.model.message import Stamp, encode_head, encode_stamp
from muster.model.routing import EVENTS, Enrichment, FileSettings, Route, WebhookSettings
from muster.wire.mqtt.packets import Publish
from unit.hub.hub_parts import body_of, build, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from muster.clock import ManualClock
    from muster.hub.routing_endpoints import Endpoint
    from muster.model.identity import IdentityRef
    from unit.hub.hub_parts import Client, Collector, Parts

RECORD = encode_stamp(Stamp("d1", "", "1", None)) + encode_head("") + b"x"
JSON = "%24.ct=application%2Fjson&%24.ce=utf-8"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(routing_endpoints, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(routing_endpoints, "LONGEST_PAUSE_S", 0.01)
    return


async def endpoint(parts: Parts, name: str) -> tuple[Endpoint, Collector]:
    made = await parts.routing.save_endpoint(parts.hub, name, FileSettings(), None)
    return made, parts.targets[name]


async def route(parts: Parts, condition: str, *names: str, **more: Any) -> None:
    name = f"r{len(parts.routing.routes(parts.hub))}"
    await parts.routing.save_route(
        parts.hub, Route(name=name, condition=condition, endpoint_names=names, **more)
    )


async def send(client: Client, ref: IdentityRef, *messages: tuple[str, bytes]) -> None:
    """Send messages, each with its bag, and wait for all PUBACKs."""
    topic = f"devices/{ref.device_id}/"
    if ref.module_id:
        topic += f"modules/{ref.module_id}/"
    client.send(
        *(
            Publish(f"{topic}messages/events/{bag}", body, 1, number)
            for number, (bag, body) in enumerate(messages, 1)
        )
    )
    await client.take(len(messages))


async def test_without_routes_the_way_to_the_log_is_the_log_s_own(parts: Parts) -> None:
    intake, log = parts.telemetry.intake(parts.hub), parts.telemetry.log(parts.hub)
    assert intake.append == log.append
    await endpoint(parts, "files")
    assert intake.append == log.append
    await route(parts, "a = '1'", "files")
    assert intake.append != log.append
    await parts.routing.delete_route(parts.hub, "r0")
    assert intake.append == log.append


async def test_routed_messages_go_to_their_endpoints_only(parts: Parts) -> None:
    _, files = await endpoint(parts, "files")
    _, hook = await endpoint(parts, "hook")
    await route(parts, "level = 'alarm'", "files")
    await route(parts, "$body.t > 80", "hook", EVENTS)
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    await send(
        client,
        ref,
        ("level=alarm", b"1"),
        (JSON, b'{"t": 81}'),
        (f"{JSON}&level=alarm", b'{"t": 90}'),
        ("level=info", b"4"),
    )
    assert [body_of(event) for event in await parts.events()] == [{"t": 81}, {"t": 90}, 4]
    assert [each["body"] for each in await files.got(2)] == [1, {"t": 90}]
    assert [each["body"] for each in await hook.got(2)] == [{"t": 81}, {"t": 90}]
    assert parts.telemetry.intake(parts.hub).unrouted == 0


async def test_without_the_fallback_unmatched_messages_are_dropped(parts: Parts) -> None:
    await parts.routing.save_fallback(parts.hub, enabled=False)
    ref = await parts.device("d1")
    await send(await parts.connect(ref), ref, ("", b"1"), ("", b"2"))
    assert await parts.events() == []
    assert parts.telemetry.intake(parts.hub).unrouted == 2


async def test_twins_are_asked_as_they_are_when_the_message_comes(parts: Parts) -> None:
    _, files = await endpoint(parts, "files")
    await route(parts, "$twin.tags.site = 'north'", "files")
    await parts.routing.save_enrichment(
        parts.hub, Enrichment(key="n", value="$twin.tags.n", endpoint_names=("files",))
    )
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    await send(client, ref, ("", b"1"))
    await parts.twins.change(ref, TwinRequest({"site": "north", "n": 1}))
    await send(client, ref, ("", b"2"))
    await parts.twins.change(ref, TwinRequest({"n": 2}))
    await send(client, ref, ("n=mine", b"3"))
    await parts.twins.change(ref, TwinRequest({"site": "south"}))
    await send(client, ref, ("", b"4"))
    assert [body_of(event) for event in await parts.events()] == [1, 4]
    got = await files.got(2)
    # The service's word counts more than the device's.
    assert [(each["body"], each["properties"]) for each in got] == [
        (2, {"n": "1"}),
        (3, {"n": "2"}),
    ]


async def test_a_module_s_twin_is_its_own(parts: Parts) -> None:
    _, files = await endpoint(parts, "files")
    await route(parts, "$twin.properties.desired.loud = true", "files")
    ref = await parts.device("d1")
    module = await parts.module("d1", "m1")
    await parts.twins.change(module, TwinRequest(properties=TwinProperties({"loud": True})))
    await send(await parts.connect(ref), ref, ("", b"1"))
    await send(await parts.connect(module), module, ("", b"2"))
    assert [body_of(event) for event in await parts.events()] == [1]
    assert (await files.got(1))[0]["moduleId"] == "m1"


async def test_a_device_that_comes_again_has_a_new_twin(parts: Parts) -> None:
    await route(parts, "$twin.tags.a = 1", EVENTS)
    await parts.routing.save_fallback(parts.hub, enabled=False)
    ref = await parts.device("d1")
    await parts.twins.change(ref, TwinRequest({"a": 1}))
    await send(await parts.connect(ref), ref, ("", b"1"))
    await parts.identities.delete(ref.hub, "d1", ANY)
    ref = await parts.device("d1")
    await send(await parts.connect(ref), ref, ("", b"2"))
    assert [body_of(event) for event in await parts.events()] == [1]


async def test_messages_stay_in_order_while_one_waits_for_a_twin(parts: Parts) -> None:
    _, files = await endpoint(parts, "files")
    await route(parts, "$twin.tags.none = 1 OR go = '1'", "files")
    refs = [await parts.device(f"d{number}") for number in range(20)]
    clients = [await parts.connect(ref) for ref in refs]
    for turn in range(5):
        for client, ref in zip(clients, refs, strict=True):
            client.send(
                Publish(f"devices/{ref.device_id}/messages/events/go=1", b"%d" % turn, 1, turn + 1)
            )
    for client in clients:
        acknowledged = await client.take(5)
        assert [packet.packet_id for packet in acknowledged] == [1, 2, 3, 4, 5]
    found = await files.got(100)
    for ref in refs:
        own = [each["body"] for each in found if each["deviceId"] == ref.device_id]
        assert own == [0, 1, 2, 3, 4]
    assert len(found) == 100


async def test_the_flag_of_mqtt_is_a_property(parts: Parts) -> None:
    _, files = await endpoint(parts, "files")
    await route(parts, "true", "files")
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    topic = "devices/d1/messages/events/"
    client.send(Publish(topic, b"1", 1, 1, retain=True), Publish(topic, b"2", 1, 2))
    await client.take(2)
    got = await files.got(2)
    assert [each["properties"] for each in got] == [{"mqtt-retain": "true"}, {}]


async def test_a_target_that_refuses_gets_everything_later_and_once(parts: Parts) -> None:
    made, hook = await endpoint(parts, "hook")
    await route(parts, "true", "hook")
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    hook.refuses = "it answers 500"
    await send(client, ref, *(("", b"%d" % number) for number in range(250)))
    await until(lambda: hook.offers > 3)
    status = parts.routing.status(made)
    assert (status.delivered, status.last_error) == (0, "it answers 500")
    assert status.waiting == 250
    assert status.failing_since == parts.clock.time()
    hook.refuses = ""
    assert [each["body"] for each in await hook.got(250)] == list(range(250))
    await until(lambda: parts.routing.status(made).waiting == 0)
    status = parts.routing.status(made)
    assert (status.delivered, status.failing_since, status.last_error) == (250, None, None)
    assert len(hook.events) == 250


async def test_the_next_start_goes_on_where_the_last_one_ended(
    tmp_path: Path, clock: ManualClock
) -> None:
    first = await build(tmp_path, clock)
    made, hook = await endpoint(first, "hook")
    await first.routing.save_enrichment(
        first.hub, Enrichment(key="k", value="v", endpoint_names=("hook",))
    )
    await route(first, "true", "hook")
    ref = await first.device("d1")
    client = await first.connect(ref)
    await send(client, ref, ("", b"1"))
    await hook.got(1)
    await until(lambda: first.routing.status(made).waiting == 0)
    hook.refuses = "closed"
    await send(client, ref, ("", b"2"), ("", b"3"))
    await first.close()
    assert hook.closed

    second = await build(tmp_path, clock)
    assert [each.name for each in second.routing.endpoints(second.hub)] == ["hook"]
    got = await second.targets["hook"].got(2)
    assert [(each["body"], each["properties"]) for each in got] == [
        (2, {"k": "v"}),
        (3, {"k": "v"}),
    ]
    assert [each.name for each in second.routing.routes(second.hub)] == ["r0"]
    await second.close()


async def test_messages_of_an_endpoint_that_was_deleted_do_not_reach_its_namesake(
    parts: Parts,
) -> None:
    _, hook = await endpoint(parts, "hook")
    await route(parts, "true", "hook")
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    hook.refuses = "away"
    await send(client, ref, ("", b"1"))
    await until(lambda: hook.offers > 0)
    with pytest.raises(ConflictError, match="route r0") as caught:
        await parts.routing.delete_endpoint(parts.hub, "hook")
    assert caught.value.code == "endpoint-in-use"
    await parts.routing.delete_route(parts.hub, "r0")
    await parts.routing.delete_endpoint(parts.hub, "hook")
    hook.refuses = ""
    await endpoint(parts, "hook")
    await route(parts, "true", "hook")
    await send(client, ref, ("", b"2"))
    assert [each["body"] for each in await hook.got(1)] == [2]


async def test_what_retention_took_is_counted(parts: Parts) -> None:
    made, hook = await endpoint(parts, "hook")
    await route(parts, "true", "hook")
    hook.refuses = "away"
    ref = await parts.device("d1")
    client = await parts.connect(ref)
    await send(client, ref, ("", b"1"), ("", b"2"))
    await until(lambda: hook.offers > 0)
    await parts.consumers.stop(made)
    log = await parts.telemetry.open_routed(parts.hub)
    log.retain(10, 1 << 30)
    for number in (3, 4, 5):
        # Each look at the clock comes with an append: the first closes a file, a later one goes.
        parts.clock.advance(100)
        await send(client, ref, ("", b"%d" % number))
    await until(lambda: any(log.bounds(partition)[0] for partition in range(4)))
    (earliest,) = filter(None, (log.bounds(partition)[0] for partition in range(4)))
    hook.refuses = ""
    await parts.consumers.start(made, log, 4)
    got = await hook.got(5 - earliest)
    assert [each["sequenceNumber"] for each in got] == list(range(earliest, 5))
    assert parts.routing.status(made).lost == earliest


async def test_what_cannot_be_kept(parts: Parts) -> None:
    hub, routing = parts.hub, parts.routing
    with pytest.raises(NotFoundError) as missing:
        await routing.save_route(hub, Route(name="r", endpoint_names=("none",)))
    assert missing.value.code == "endpoint-not-found"
    with pytest.raises(InvalidArgumentError) as condition:
        await routing.save_route(hub, Route(name="r", condition="a ="))
    assert condition.value.code == "invalid-query"
    for delete in (routing.delete_route, routing.delete_enrichment, routing.delete_endpoint):
        with pytest.raises(NotFoundError):
            await delete(hub, "none")
    await endpoint(parts, "files")
    with pytest.raises(ConflictError) as used:
        await routing.save_endpoint(hub, "other", FileSettings(directory="files"), None)
    assert used.value.code == "directory-in-use"
    signed = WebhookSettings(url="https://x", auth="hmac")
    with pytest.raises(InvalidArgumentError, match="secret"):
        await routing.save_endpoint(hub, "other", signed, None)
    with pytest.raises(InvalidArgumentError, match="secret"):
        await routing.save_endpoint(hub, "other", signed, "a\nb")
    with pytest.raises(InvalidArgumentError, match="secret"):
        await routing.save_endpoint(hub, "other", WebhookSettings(url="https://x"), "s")
    assert routing.routes(hub) == []


async def test_a_secret_is_sealed_and_stays(parts: Parts) -> None:
    signed = WebhookSettings(url="https://x", auth="hmac")
    await parts.routing.save_endpoint(parts.hub, "hook", signed, "very-secret")
    changed = WebhookSettings(url="https://y", auth="hmac")
    again = await parts.routing.save_endpoint(parts.hub, "hook", changed, None)
    assert again.secret == "very-secret"
    assert "very-secret" not in repr(again)
    (row,) = await parts.engine.read(routing_endpoints.SQL["endpoints"], {})
    assert b"very-secret" not in bytes(row[4])  # type: ignore[arg-type]
    assert "very-secret" not in str(row[3])


async def test_a_closed_log_refuses_routed_messages(parts: Parts) -> None:
    await route(parts, "a = '1'", EVENTS)
    await parts.telemetry.close()
    with pytest.raises(UnavailableError):
        await parts.telemetry.send(parts.hub, "d1", [RECORD])
