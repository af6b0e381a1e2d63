"""Injected faults on the wire: what devices see of them on AMQP, MQTT and HTTPS."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.performatives import Accepted, Close, Detach, Disposition, End, Rejected
from support.amqp import AmqpClient
from support.device import hub_login, hub_token, unique
from support.events import events_of, wait_for
from support.https import request

if TYPE_CHECKING:
    from support.instance import Instance

FAULT = "AzIoTHub_FaultOperation"


@pytest.fixture
def instance(shared_instance: Instance) -> Instance:
    """Return the shared instance; its first hub injects faults, into what is told to only."""
    shared_instance.dps.must("PUT", f"{_admin(shared_instance)}/fault-injection", {"enabled": True})
    return shared_instance


def _admin(instance: Instance) -> str:
    return f"/admin/v1/hubs/{instance.place.hubs[0]}"


def created(instance: Instance) -> tuple[str, str]:
    device_id = unique("fault")
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


def begin(instance: Instance, kind: str, device_id: str, **fields: Any) -> str:
    body = {"kind": kind, "deviceIds": [device_id], **fields}
    return str(instance.dps.must("POST", f"{_admin(instance)}/faults", body)["id"])


def end(instance: Instance, fault_id: str) -> None:
    instance.dps.must("DELETE", f"{_admin(instance)}/faults/{fault_id}")


def connected(instance: Instance, device_id: str, key: str) -> AmqpClient:
    host = instance.place.hubs[0]
    client = AmqpClient(instance, host)
    client.log_in(hub_token(host, device_id, key))
    return client


def text(body: bytes, **fields: Any) -> bytes:
    return messages.encode(Message(Data([body]), **fields))


def order(operation: str, duration_s: int = 0) -> bytes:
    properties = {
        f"{FAULT}Type": operation,
        f"{FAULT}CloseReason": "boom",
        f"{FAULT}DelayInSecs": "0",
        f"{FAULT}DurationInSecs": str(duration_s),
    }
    return text(b"x", application_properties=properties)


class Links:
    """The links of a device, by what ends them."""

    def __init__(self, client: AmqpClient, device_id: str) -> None:
        path = f"/devices/{device_id}"
        pair = {"com.microsoft:channel-correlation-id": "twin:1"}
        calls = {"com.microsoft:channel-correlation-id": "methods:1"}
        self.telemetry = client.sender(f"{path}/messages/events")
        self.handles = {
            "KillAmqpD2CLink": self.telemetry,
            "KillAmqpC2DLink": client.receiver(f"{path}/messages/devicebound"),
            "KillAmqpTwinLinkReq": client.sender(f"{path}/twin", properties=pair),
            "KillAmqpTwinLinkResp": client.receiver(f"{path}/twin", properties=pair),
            "KillAmqpMethodReqLink": client.receiver(
                f"{path}/methods/devicebound", properties=calls
            ),
            "KillAmqpMethodRespLink": client.sender(
                f"{path}/methods/devicebound", properties=calls
            ),
        }


def test_a_device_orders_that_its_links_end(instance: Instance) -> None:
    device_id, key = created(instance)
    with connected(instance, device_id, key) as client:
        links = Links(client, device_id)
        # The link that carries the orders is the last to go.
        for operation, handle in reversed(links.handles.items()):
            number = client.transfer(links.telemetry, order(operation))
            assert client.outcome(number).state == Accepted()
            detached = client.find(Detach)
            assert detached.handle == handle, operation
            assert detached.error is not None
    (*_, last) = events_of(instance, device_id, len(links.handles))
    assert last["properties"][f"{FAULT}CloseReason"] == "boom"


@pytest.mark.parametrize("operation", ["KillAmqpCBSLinkReq", "KillAmqpCBSLinkResp"])
def test_a_device_orders_that_a_link_for_tokens_ends(instance: Instance, operation: str) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    with AmqpClient(instance, host) as client:
        requests, answers = client.log_in(hub_token(host, device_id, key))
        link = client.sender(f"/devices/{device_id}/messages/events")
        client.outcome(client.transfer(link, order(operation)))
        assert client.find(Detach).handle == (requests if operation.endswith("Req") else answers)
        assert client.outcome(client.transfer(link, text(b"y"))).state == Accepted()


@pytest.mark.parametrize(
    ("operation", "last"),
    [
        ("KillTcp", None),
        ("ShutDownAmqp", Close),
        ("KillAmqpConnection", Close),
        ("KillAmqpSession", End),
        ("InvokeAuthError", Close),
    ],
)
def test_a_device_orders_the_end(instance: Instance, operation: str, last: type[Any]) -> None:
    device_id, key = created(instance)
    with connected(instance, device_id, key) as client:
        link = client.sender(f"/devices/{device_id}/messages/events")
        number = client.transfer(link, order(operation, 60))
        assert client.outcome(number).state == Accepted()
        if last is None:
            assert not [one for one in client.expect_closed() if isinstance(one, Close)]
        else:
            said = client.find(last)
            assert (said.error is None) is (operation == "ShutDownAmqp")
    if operation != "KillTcp":
        with connected(instance, device_id, key) as client:
            refusal = client.refusal(sends=True, address=f"/devices/{device_id}/messages/events")
            assert refusal.error is not None
            unauthorized = refusal.error.condition == "amqp:unauthorized-access"
            assert unauthorized is (operation == "InvokeAuthError")
    # Other protocols are not concerned by the end of a part of AMQP.
    if operation.startswith(("Kill", "ShutDown")) and operation != "KillTcp":
        with hub_login(instance, device_id, key) as mqtt:
            assert mqtt.is_open()


@pytest.mark.parametrize(
    ("operation", "condition"),
    [
        ("InvokeThrottling", "com.microsoft:device-container-throttled"),
        ("InvokeMaxMessageQuota", "com.microsoft:quota-exceeded"),
    ],
)
def test_a_device_orders_rejections(instance: Instance, operation: str, condition: str) -> None:
    device_id, key = created(instance)
    with connected(instance, device_id, key) as client:
        link = client.sender(f"/devices/{device_id}/messages/events")

        def rejected() -> Rejected | None:
            state = client.outcome(client.transfer(link, text(b"y"))).state
            return state if isinstance(state, Rejected) else None

        client.outcome(client.transfer(link, order(operation, 60)))
        found: list[Rejected] = []
        wait_for(lambda: bool(found.append(one) if (one := rejected()) else found) or bool(found))
        assert found[0].error is not None
        assert found[0].error.condition == condition


def test_faults_of_operators_on_amqp(instance: Instance) -> None:
    device_id, key = created(instance)
    address = f"/devices/{device_id}/messages/events"
    with connected(instance, device_id, key) as client:
        link = client.sender(address)
        fault = begin(instance, "throttle", device_id)
        state = client.outcome(client.transfer(link, text(b"lost"))).state
        assert isinstance(state, Rejected)
        end(instance, fault)
        fault = begin(instance, "delay", device_id, delay=1.0)
        number = client.transfer(link, text(b"late"))
        assert client.outcome(number).state == Accepted()
        end(instance, fault)
        begin(instance, "drop", device_id, duration=0.5)
        number = client.transfer(link, text(b"dropped"))
        assert not [
            said
            for said in client.expect_closed()
            if isinstance(said, Disposition) and said.first == number
        ]
    with connected(instance, device_id, key) as client:
        client.sender(address)
        fault = begin(instance, "refuse", device_id)
        assert client.find(Close).error.condition == "amqp:internal-error"
    with connected(instance, device_id, key) as client:
        client.refusal(sends=True, address=address)
        end(instance, fault)
        client.sender(address)
        begin(instance, "reset", device_id)
        assert not [one for one in client.expect_closed() if isinstance(one, Close)]
    bodies = [event["body"] for event in events_of(instance, device_id, 2)]
    assert bodies == ["late", "dropped"]
    explained = instance.explain(device_id)
    outcomes = {each["outcome"] for each in explained if each["check"] == "fault-injected"}
    assert outcomes == {"throttled", "delayed", "dropped", "reset", "refused"}
    causes = {each["cause"] for each in explained if each["check"] == "connection-closed"}
    assert {cause.partition(". ")[0] for cause in causes} == {
        "Closed because: injected fault: drop",
        "Closed because: injected fault: refuse",
        "Closed because: injected fault: reset",
    }


def test_a_reset_is_one(instance: Instance) -> None:
    device_id, key = created(instance)
    client = hub_login(instance, device_id, key)
    # Without TLS, which makes the same of a reset and of an end.
    with socket.socket(fileno=client._tls.detach()) as plain:
        plain.settimeout(20)
        begin(instance, "reset", device_id)
        with pytest.raises(ConnectionResetError):
            plain.recv(1)


def test_a_device_on_mqtt_orders_the_end(instance: Instance) -> None:
    device_id, key = created(instance)
    topic = f"devices/{device_id}/messages/events/{FAULT}Type="
    for operation in ("ShutDownMqtt", "KillTcp"):
        with hub_login(instance, device_id, key) as client:
            client.publish(topic + operation, b"x", 1)
            client.expect_closed()
    events_of(instance, device_id, 2)


@pytest.mark.parametrize(("kind", "stored"), [("drop", ["x", "y"]), ("reset", ["y"])])
def test_https_connections_break(instance: Instance, kind: str, stored: list[str]) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]

    def send(body: bytes) -> int:
        return request(
            instance.place,
            instance.ca_file,
            "POST",
            f"/devices/{device_id}/messages/events?api-version=2021-04-12",
            host=host,
            headers={"Authorization": hub_token(host, device_id, key)},
            body=body,
        ).status

    fault = begin(instance, kind, device_id)
    with pytest.raises((OSError, http.client.HTTPException)):
        send(b"x")
    end(instance, fault)
    assert send(b"y") == 204
    assert [event["body"] for event in events_of(instance, device_id, len(stored))] == stored
