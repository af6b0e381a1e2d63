"""The built-in endpoint with `azure-eventhub`, as its own documentation uses it."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from azure.eventhub import CloseReason, EventHubConsumerClient, TransportType
from azure.eventhub.exceptions import AuthenticationError, ConnectError, EventHubError

from muster.hub.telemetry import DEFAULT_PARTITIONS, partition_of
from muster.wire.mqtt.packets import Puback, Publish
from support.device import hub_login, unique
from support.secrets import CLOCK, new_key, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.instance import Instance

PATIENCE_S = 60.0


def connection_string(instance: Instance) -> str:
    """Return what `muster info` says, of the first hub."""
    (found,) = (
        hub["eventHubConnectionString"]
        for hub in instance.facts["hubs"]
        if hub["host"] == instance.place.hubs[0]
    )
    return str(found)


def consumer(instance: Instance, text: str | None = None, **options: Any) -> EventHubConsumerClient:
    return EventHubConsumerClient.from_connection_string(
        text or connection_string(instance),
        consumer_group=options.pop("consumer_group", "$Default"),
        **{"connection_verify": str(instance.ca_file), "retry_total": 0, **options},
    )


class Seen:
    """What a client was told."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.errors: queue.Queue[Exception] = queue.Queue()
        self.closed: queue.Queue[CloseReason] = queue.Queue()

    def next(self, count: int, which: Callable[[Any], bool]) -> list[Any]:
        """Return the next events that `which` likes."""
        found: list[Any] = []
        while len(found) < count:
            _, event = self.events.get(timeout=PATIENCE_S)
            if which(event):
                found.append(event)
        return found


@contextmanager
def reading(
    client: EventHubConsumerClient, *, batches: bool = False, **options: Any
) -> Iterator[Seen]:
    """Read in a thread, from the beginning unless told otherwise.

    Of the shared instance nobody reads from the beginning: it has every other test's events, and
    this client gives out some hundred a minute where it reads four partitions one by one.
    """
    seen = Seen()

    def take(context: Any, events: list[Any]) -> None:
        for event in events:
            seen.events.put((context, event))

    thread = threading.Thread(
        target=client.receive_batch if batches else client.receive,
        kwargs={
            ("on_event_batch" if batches else "on_event"): (
                take if batches else lambda context, event: take(context, [event])
            ),
            "on_error": lambda _, error: seen.errors.put(error),
            "on_partition_close": lambda _, reason: seen.closed.put(reason),
            "starting_position": "-1",
            **options,
        },
        daemon=True,
    )
    thread.start()
    try:
        yield seen
    finally:
        client.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def moment() -> datetime:
    """Return a time before everything that is sent from now on."""
    return CLOCK.now().replace(microsecond=0)


def annotation(event: Any, name: str) -> Any:
    value = event.system_properties.get(name.encode())
    return value.decode() if isinstance(value, bytes) else value


def of(device_id: str) -> Callable[[Any], bool]:
    return lambda event: annotation(event, "iothub-connection-device-id") == device_id


def send(instance: Instance, device: str, key: str, *messages: tuple[str, bytes]) -> None:
    """Send telemetry as `device` or `device/module`: property bags and bodies."""
    path = device.replace("/", "/modules/")
    with hub_login(instance, device, key) as client:
        for number, (bag, body) in enumerate(messages, 1):
            client.send(Publish(f"devices/{path}/messages/events/{bag}", body, 1, number))
            assert client.expect(Puback).packet_id == number


def created(instance: Instance, prefix: str = "py-events") -> tuple[str, str]:
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


def test_what_an_event_says(instance: Instance) -> None:
    device_id, _ = created(instance)
    key, _ = instance.hub().create_module(device_id, "m1")
    bag = (
        "%24.mid=id%201&%24.cid=c&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=part"
        "&%24.exp=2030-01-02T03%3A04%3A05Z&alErt=t%C3%BCr&none"
    )
    before = moment()
    send(instance, f"{device_id}/m1", key, (bag, b'{"t": 21.5}'))
    client = consumer(instance)
    with reading(
        client, starting_position=before, track_last_enqueued_event_properties=True
    ) as seen:
        while True:
            context, event = seen.events.get(timeout=PATIENCE_S)
            if of(device_id)(event):
                break
        assert context.partition_id == str(partition_of(device_id, DEFAULT_PARTITIONS))
        assert context.eventhub_name == instance.place.hubs[0]
        last = context.last_enqueued_event_properties
        assert last["sequence_number"] >= event.sequence_number
        assert int(last["offset"]) >= int(event.offset)
        assert last["enqueued_time"] >= event.enqueued_time
        assert last["retrieval_time"] >= before
    assert event.body_as_json() == {"t": 21.5}
    assert (event.message_id, event.correlation_id) == ("id 1", "c")
    assert (event.content_type, event.system_properties[b"content-encoding"]) == (
        "application/json",
        b"utf-8",
    )
    assert event.properties == {b"alErt": "tür".encode(), b"none": None}
    assert isinstance(event.offset, str)
    assert isinstance(event.sequence_number, int)
    assert before <= event.enqueued_time <= CLOCK.now()
    said = event.raw_amqp_message.annotations
    assert said[b"iothub-connection-device-id"] == device_id.encode()
    assert said[b"iothub-connection-module-id"] == b"m1"
    assert said[b"iothub-message-source"] == b"Telemetry"
    assert said[b"dt-subject"] == b"part"
    assert said[b"iothub-enqueuedtime"] == said[b"x-opt-enqueued-time"]
    assert said[b"iothub-connection-auth-generation-id"]
    method = json.loads(said[b"iothub-connection-auth-method"])
    assert (method["scope"], method["issuer"]) == ("module", "iothub")
    properties = event.raw_amqp_message.properties
    assert properties.user_id == b"u"
    expiry = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert properties.absolute_expiry_time == int(expiry.timestamp() * 1000)


def test_the_stream_is_described(instance: Instance) -> None:
    device_id, key = created(instance)
    own = str(partition_of(device_id, DEFAULT_PARTITIONS))
    with consumer(instance) as client:
        found = client.get_eventhub_properties()
        assert found["eventhub_name"] == instance.place.hubs[0]
        assert found["partition_ids"] == [str(number) for number in range(DEFAULT_PARTITIONS)]
        assert found["created_at"] < CLOCK.now()
        before = client.get_partition_properties(own)
        send(instance, device_id, key, ("", b"1"), ("", b"2"))
        after = client.get_partition_properties(own)
        assert (after["eventhub_name"], after["id"]) == (instance.place.hubs[0], own)
        assert after["beginning_sequence_number"] == 0
        assert not after["is_empty"]
        assert after["last_enqueued_sequence_number"] >= before["last_enqueued_sequence_number"] + 2
        assert int(after["last_enqueued_offset"]) > int(before["last_enqueued_offset"])
        with pytest.raises(EventHubError, match="404"):
            client.get_partition_properties("99")


def test_positions(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id, key = created(instance)
    own = str(partition_of(device_id, DEFAULT_PARTITIONS))
    before = moment()
    send(instance, device_id, key, *(("", b"%d" % number) for number in range(4)))
    with reading(consumer(instance), partition_id=own, starting_position=before) as seen:
        events = seen.next(4, of(device_id))
    third = events[2]
    table: list[tuple[str, Any, bool, bytes]] = [
        ("offset", third.offset, False, b"3"),
        ("offset, inclusive", third.offset, True, b"2"),
        ("sequence number", third.sequence_number, False, b"3"),
        ("sequence number, inclusive", third.sequence_number, True, b"2"),
        ("time, inclusive", events[0].enqueued_time, True, b"0"),
    ]
    for name, position, inclusive, first in table:
        with (
            subtests.test(msg=name),
            reading(
                consumer(instance),
                partition_id=own,
                starting_position=position,
                starting_position_inclusive=inclusive,
            ) as seen,
        ):
            assert seen.next(1, of(device_id))[0].body_as_str().encode() == first
    with (
        subtests.test(msg="latest"),
        reading(consumer(instance), partition_id=own, starting_position="@latest") as seen,
    ):
        # It reads from when it is there, which nobody is told: send until it is.
        while seen.events.empty():
            send(instance, device_id, key, ("", b"new"))
        assert seen.next(1, of(device_id))[0].body_as_str() == "new"
    with (
        subtests.test(msg="ahead of the log"),
        reading(consumer(instance), partition_id=own, starting_position=10**9) as seen,
    ):
        error = seen.errors.get(timeout=PATIENCE_S)
        assert "sequence number" in str(error)


def test_all_partitions_and_many_events(instance: Instance) -> None:
    devices = [created(instance) for _ in range(8)]
    count = 60
    before = moment()
    for device_id, key in devices:
        send(instance, device_id, key, *(("", b"%d" % number) for number in range(count)))
    names = {device_id for device_id, _ in devices}
    assert len({partition_of(each, DEFAULT_PARTITIONS) for each in names}) > 1
    # One by one, this client gives out an event of each partition and then waits for the slowest.
    with reading(consumer(instance), batches=True, prefetch=20, starting_position=before) as seen:
        events = seen.next(
            count * len(devices),
            lambda event: annotation(event, "iothub-connection-device-id") in names,
        )
    for device_id in names:
        own = [event for event in events if of(device_id)(event)]
        assert [int(event.body_as_str()) for event in own] == list(range(count))


def test_the_higher_epoch_takes_over(instance: Instance, consumer_group: str) -> None:
    def client() -> EventHubConsumerClient:
        return consumer(instance, consumer_group=consumer_group)

    options = {"partition_id": "0", "starting_position": "@latest"}
    with reading(client(), owner_level=1, **options) as first:
        # Once it is refused, the first one is there.
        with reading(client(), owner_level=0, **options) as lower:
            assert "epoch 1" in str(lower.errors.get(timeout=PATIENCE_S))
        with reading(client(), **options) as without:
            assert "epoch 1" in str(without.errors.get(timeout=PATIENCE_S))
        with reading(client(), owner_level=2, **options):
            assert "epoch 2" in str(first.errors.get(timeout=PATIENCE_S))
            assert first.closed.get(timeout=PATIENCE_S) == CloseReason.OWNERSHIP_LOST


def test_refusals(instance: Instance) -> None:
    good = connection_string(instance)
    key = good.partition("SharedAccessKey=")[2].partition(";")[0]
    wrong = good.replace(key, remember(new_key()))
    with consumer(instance, wrong) as client, pytest.raises(AuthenticationError):
        client.get_partition_ids()
    device_policy = good.replace("SharedAccessKeyName=service", "SharedAccessKeyName=device")
    with consumer(instance, device_policy) as client, pytest.raises(AuthenticationError):
        client.get_partition_ids()
    unknown = good.replace("EntityPath=", "EntityPath=no-")
    with consumer(instance, unknown) as client, pytest.raises((ConnectError, EventHubError)):
        client.get_partition_ids()
    with reading(consumer(instance, consumer_group="nobody"), partition_id="0") as seen:
        assert "consumer group" in str(seen.errors.get(timeout=PATIENCE_S))


def test_over_websockets_and_by_another_name(instance: Instance) -> None:
    host, other = instance.place.hubs[0], instance.place.hubs[1]
    with consumer(instance, transport_type=TransportType.AmqpOverWebsocket) as client:
        assert client.get_eventhub_properties()["eventhub_name"] == host
    # The documented way through a proxy: another address, the same token.
    away = f"sb://{other}:{instance.place.amqp_port}"
    with consumer(
        instance, custom_endpoint_address=away, transport_type=TransportType.Amqp
    ) as client:
        assert client.get_eventhub_properties()["eventhub_name"] == host


def test_the_emulator_flag(own_instance: Instance) -> None:
    instance = own_instance
    assert instance.stop() == 0
    instance.start("--amqp-plain-port", "5672")
    device_id, key = created(instance)
    send(instance, device_id, key, ("", b"plain"))
    text = connection_string(instance).replace(
        f"sb://{instance.place.hubs[0]}/", f"sb://{instance.place.address}:5672/"
    )
    client = EventHubConsumerClient.from_connection_string(
        f"{text};UseDevelopmentEmulator=true", consumer_group="$Default"
    )
    assert client.get_eventhub_properties()["eventhub_name"] == instance.place.hubs[0]
    with reading(client) as seen:
        assert seen.next(1, of(device_id))[0].body_as_str() == "plain"
