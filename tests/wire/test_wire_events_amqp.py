"""The built-in endpoint on the wire, as clients of other makes speak to it (hub-service.md 4)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from muster.hub.telemetry import DEFAULT_PARTITIONS, partition_of
from muster.wire.amqp import messages
from muster.wire.amqp.messages import AmqpValue, Message, Properties
from muster.wire.amqp.performatives import Close, Detach, End, Flow, Source, Target, Transfer
from muster.wire.amqp.types import Described, Int, Symbol, Timestamp, ULong
from support.amqp import AmqpClient
from support.device import hub_login, unique
from support.secrets import CLOCK, remember, token

if TYPE_CHECKING:
    from support.instance import Instance

SELECTOR = "apache.org:selector-filter:string"
PARTITIONS = "ConsumerGroups/{group}/Partitions"
DEFAULT = PARTITIONS.format(group="$Default")


def stream_token(instance: Instance, resource: str, policy: str = "service") -> str:
    """Sign as the Event Hubs SDKs do: with the text of the key (hub-service.md 0.2)."""
    text = instance.facts["hubs"][0]["eventHubConnectionString"]
    key = text.partition(f"SharedAccessKeyName={policy};SharedAccessKey=")[2].partition(";")[0]
    raw, expiry = quote(resource, safe=""), int(CLOCK.time()) + 3600
    digest = hmac.digest(key.encode(), f"{raw}\n{expiry}".encode(), hashlib.sha256)
    signature = quote(remember(base64.b64encode(digest).decode()), safe="")
    return f"SharedAccessSignature sr={raw}&sig={signature}&se={expiry}&skn={policy}"


def reader_client(instance: Instance) -> AmqpClient:
    host = instance.place.hubs[0]
    client = AmqpClient(instance, host)
    try:
        client.log_in(stream_token(instance, f"sb://{host}/{host}"))
    except BaseException:
        client.drop()
        raise
    return client


def source(
    instance: Instance, partition: int, selector: str | None = None, group: str = "$Default"
) -> Source:
    host = instance.place.hubs[0]
    return Source(
        f"amqps://{host}/{host}/{PARTITIONS.format(group=group)}/{partition}",
        filter=None
        if selector is None
        else {Symbol(SELECTOR): Described(Symbol(SELECTOR), f"amqp.annotation.{selector}")},
    )


def attach_reader(
    client: AmqpClient, instance: Instance, partition: int, selector: str | None = None, **more: Any
) -> int:
    """Attach a reader without credit and return its handle."""
    epoch, group = more.pop("epoch", None), more.pop("group", "$Default")
    properties = {Symbol("com.microsoft:timeout"): ULong(0)}
    if epoch is not None:
        properties[Symbol("com.microsoft:epoch")] = epoch
    asked = source(instance, partition, selector, group)
    answer = client.attach(
        sends=False,
        address="",
        source=asked,
        target=Target("receiver-link"),
        properties=properties,
        max_message_size=1_048_576,
        **more,
    )
    assert (answer.source, answer.target) == (asked, Target("receiver-link"))
    assert answer.initial_delivery_count == 0
    return answer.handle


def sent(instance: Instance, *bodies: bytes, prefix: str = "events") -> tuple[str, int]:
    """Send telemetry of a new device and return its ID and partition."""
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id)
    with hub_login(instance, device_id, key) as client:
        for body in bodies:
            client.publish(f"devices/{device_id}/messages/events/", body)
    return device_id, partition_of(device_id, DEFAULT_PARTITIONS)


def read(client: AmqpClient, handle: int, device_id: str, last: bytes) -> list[Message]:
    """Grant credit until an event of the device has come, and return those of the device."""
    found: list[Message] = []
    count = 0
    while not found or found[-1].data != last:
        client.grant(handle, 1, count)
        transfer, message, _ = client.message(handle)
        assert transfer.settled
        count += 1
        if message.message_annotations["iothub-connection-device-id"] == device_id:
            found.append(message)
    return found


def management(
    client: AmqpClient, links: tuple[int, int], message_id: Any, **asked: Any
) -> Message:
    request = Message(
        AmqpValue(None), Properties(message_id=message_id), {"operation": "READ", **asked}
    )
    client.transfer(links[0], messages.encode(request))
    answer = client.message(links[1]).message
    assert answer.properties.correlation_id == message_id
    assert type(answer.properties.correlation_id) is type(message_id)
    assert type(answer.application_properties["status-code"]) is Int
    return answer


def test_credit_is_never_exceeded_and_every_event_comes_settled(
    instance: Instance, consumer_group: str
) -> None:
    device_id, partition = sent(instance, b"1", b"2", b"3")
    with reader_client(instance) as client:
        handle = attach_reader(
            client, instance, partition, "x-opt-offset > '-1'", group=consumer_group
        )
        found = read(client, handle, device_id, b"3")
        assert [message.data for message in found] == [b"1", b"2", b"3"]
        # Whoever grants one gets one; whoever asks for the rest to be used up is told of it.
        begin = found[0].message_annotations["x-opt-sequence-number"]
        again = attach_reader(
            client,
            instance,
            partition,
            f"x-opt-sequence-number > '{begin - 1}'",
            group=consumer_group,
        )
        client.grant(again, 2)
        assert client.message(again).message.data == b"1"
        client.message(again)
        client.send(Flow(2_048, 0, 2_048, 0, again, delivery_count=2, echo=True, link_credit=0))
        assert client.find(Flow, lambda flow: flow.handle == again).delivery_count == 2
        latest = attach_reader(
            client, instance, partition, "x-opt-offset > '@latest'", group=consumer_group
        )
        client.send(Flow(2_048, 0, 2_048, 0, latest, delivery_count=0, link_credit=100, drain=True))
        drained = client.find(Flow, lambda flow: flow.handle == latest)
        assert (drained.delivery_count, drained.link_credit, drained.drain) == (100, 0, True)


def test_every_filter_leads_to_the_same_event(instance: Instance, consumer_group: str) -> None:
    before = int(CLOCK.time() * 1000) - 1
    device_id, partition = sent(instance, b"1", b"2")
    with reader_client(instance) as client:
        begin = f"x-opt-enqueuedtimeutc > {before}"
        handle = attach_reader(client, instance, partition, begin, group=consumer_group)
        _, second = read(client, handle, device_id, b"2")
        said = second.message_annotations
        assert type(said["x-opt-enqueued-time"]) is Timestamp
        for selector in (
            f"x-opt-offset >= '{said['x-opt-offset']}'",
            f"x-opt-sequence-number >= '{said['x-opt-sequence-number']}'",
            f"x-opt-sequence-number > '{said['x-opt-sequence-number'] - 1}'",
        ):
            other = attach_reader(client, instance, partition, selector, group=consumer_group)
            client.grant(other, 1)
            assert client.message(other).message.message_annotations == said
            client.send(Detach(other, closed=True))
            client.find(Detach, lambda detach, own=other: detach.handle == own)
        # As the Azure CLI writes it; several events may be of one millisecond.
        moment = said["x-opt-enqueued-time"] - 1
        other = attach_reader(
            client, instance, partition, f"x-opt-enqueuedtimeutc > {moment}", group=consumer_group
        )
        assert read(client, other, device_id, b"2")


def test_refused_readers(instance: Instance) -> None:
    host = instance.place.hubs[0]
    with reader_client(instance) as client:
        for address, condition in (
            (f"{host}/ConsumerGroups/nobody/Partitions/0", "amqp:not-found"),
            (f"{host}/{DEFAULT}/99", "amqp:not-found"),
            (f"no-{host}/{DEFAULT}/0", "amqp:not-found"),
            (f"{instance.place.hubs[1]}/{DEFAULT}/0", "amqp:unauthorized-access"),
        ):
            error = client.refusal(sends=False, address=address).error
            assert error is not None
            assert error.condition == condition, address
        for selector in ("x-opt-offset < '1'", "x-opt-sequence-number > '99999999'"):
            error = client.refusal(
                sends=False, address="", source=source(instance, 0, selector)
            ).error
            assert error is not None
            assert error.condition == "com.microsoft:argument-error"


def test_epochs_and_the_number_of_readers(instance: Instance, consumer_group: str) -> None:
    partition = 3
    with reader_client(instance) as client:
        host = instance.place.hubs[0]
        address = f"amqps://{host}/{host}/consumergroups/{consumer_group}/Partitions/{partition}"
        latest = source(instance, partition, "x-opt-offset > '@latest'", consumer_group)
        negative = {Symbol("com.microsoft:epoch"): -1}
        error = client.refusal(sends=False, address=address, properties=negative).error
        assert error is not None
        assert error.condition == "com.microsoft:argument-error"
        first = attach_reader(client, instance, partition, epoch=5, group=consumer_group)
        error = client.refusal(sends=False, address=address).error
        assert error is not None
        assert error.condition == "amqp:link:stolen"
        attach_reader(client, instance, partition, epoch=5, group=consumer_group)
        displaced = client.find(Detach, lambda detach: detach.handle == first)
        assert displaced.closed
        assert displaced.error is not None
        assert displaced.error.condition == "amqp:link:stolen"
        client.send(End())
        client.find(End)
        client.begin()
        readers = [client.attach(sends=False, address="", source=latest).handle for _ in range(5)]
        assert len(set(readers)) == 5
        error = client.refusal(sends=False, address=address).error
        assert error is not None
        assert error.condition == "amqp:resource-limit-exceeded"


def test_management_as_it_is_asked(instance: Instance) -> None:
    host = instance.place.hubs[0]
    with reader_client(instance) as client:
        links = (
            client.sender("$management"),
            client.receiver(f"amqps://{host}/{host}/$management"),
        )
        for message_id in (ULong(0), "text"):
            answer = management(client, links, message_id, type="com.microsoft:eventhub", name=host)
            assert answer.application_properties["status-code"] == 200
            assert isinstance(answer.body, AmqpValue)
            assert answer.body.value["partition_count"] == DEFAULT_PARTITIONS
        for asked, status in (
            ({"type": "com.microsoft:eventhub", "name": "nobody"}, 404),
            ({"type": "com.microsoft:eventhub", "name": instance.place.hubs[1]}, 401),
            ({"type": "com.microsoft:partition", "name": host, "partition": "x"}, 404),
            ({"type": "com.microsoft:other", "name": host}, 400),
            ({"type": "com.microsoft:eventhub"}, 400),
        ):
            answer = management(client, links, "m", **asked)
            assert answer.application_properties["status-code"] == status, asked
        client.transfer(links[0], b"\0")
        assert client.message(links[1]).message.application_properties["status-code"] == 400


def test_nobody_reads_without_a_right(instance: Instance) -> None:
    host = instance.place.hubs[0]
    policy = instance.dps.must("GET", f"/admin/v1/policies/hubs/{host}/device")
    key = remember(policy["primaryKey"])
    with AmqpClient(instance, host) as client:
        client.log_in(token(host, key, key_name="device"))
        for address in (f"{host}/{DEFAULT}/0", "$management", "messages/events/$management"):
            error = client.refusal(sends=False, address=address).error
            assert error is not None
            assert error.condition == "amqp:unauthorized-access", address


def test_monitor_events(instance: Instance) -> None:
    """What `az iot hub monitor-events` does with uamqp (hub-service.md 4.1)."""
    host = instance.place.hubs[0]
    hub = instance.hub()
    user = f"{hub.key_name}@sas.root.{host.partition('.')[0]}"
    password = token(host, hub.key, key_name=hub.key_name)
    with AmqpClient(instance, host) as client:
        assert client.sasl("PLAIN", f"\0{user}\0{password}".encode()) == 0
        client.open()
        detach = client.refusal(sends=False, address=f"amqps://{host}/messages/events/$management")
        error = detach.error
        assert error is not None
        assert error.condition == "amqp:link:redirect"
        assert error.info == {
            "hostname": host,
            "network-host": host,
            "port": "5671",
            "address": f"amqps://{host}:5671/{host}/$management",
        }
        client.send(Close())
        assert client.expect_closed()[-1] == Close()
    # As the CLI takes it apart.
    entity = error.info["address"].replace("amqps://", "").split("/")[1]
    # The shared instance may have had thousands of events in the last minute.
    before = int(CLOCK.time() * 1000) - 1
    device_id, _ = sent(instance, b'{"n": 1}')
    with AmqpClient(instance, host) as client:
        assert client.sasl("MSSBCBS") == 0
        client.open()
        links = client.cbs()
        answer = client.put_token(
            links, stream_token(instance, f"sb://{host}/{entity}"), message_id=ULong(0)
        )
        assert answer.application_properties["status-code"] == 200
        links = (client.sender("$management"), client.receiver("$management", 1))
        answer = management(client, links, ULong(0), type="com.microsoft:eventhub", name=entity)
        assert isinstance(answer.body, AmqpValue)
        partitions = answer.body.value["partition_ids"].items
        # All partitions on one connection.
        selector = f"amqp.annotation.x-opt-enqueuedtimeutc > {before}"
        for partition in partitions:
            handle = client.attach(
                sends=False,
                address="",
                source=Source(
                    f"amqps://{host}/{entity}/{DEFAULT}/{partition}",
                    filter={Symbol(SELECTOR): Described(Symbol(SELECTOR), selector)},
                ),
            ).handle
            client.grant(handle, 1_000)
        while True:
            said = client.receive()
            assert said is not None
            if isinstance(said.performative, Transfer):
                message = messages.decode(said.payload)
                if message.message_annotations["iothub-connection-device-id"] == device_id:
                    break
        assert message.data == b'{"n": 1}'


@pytest.mark.parametrize("window", [1, 7])
def test_a_small_window_is_no_obstacle(
    instance: Instance, consumer_group: str, window: int
) -> None:
    bodies = [b"%d" % number for number in range(20)]
    device_id, partition = sent(instance, *bodies)
    with reader_client(instance) as client:
        first = attach_reader(client, instance, partition, group=consumer_group)
        begin = read(client, first, device_id, b"0")[0].message_annotations
        handle = attach_reader(
            client,
            instance,
            partition,
            f"x-opt-offset >= '{begin['x-opt-offset']}'",
            group=consumer_group,
        )
        arrived, found = client.transfers, []
        client.send(Flow(window, 0, 2_048, arrived, handle, delivery_count=0, link_credit=1 << 31))
        while len(found) < len(bodies):
            message = client.message(handle).message
            if message.message_annotations["iothub-connection-device-id"] == device_id:
                found.append(message.data)
            if client.transfers - arrived == window:
                arrived = client.transfers
                client.send(Flow(window, 0, 2_048, arrived))
        assert found == bodies
