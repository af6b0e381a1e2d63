"""An edge hub to which one below it speaks for others, as the official one does (edge.md 6.5).

The edge hub below is a raw client: what it says is that of the official one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.performatives import Accepted
from muster.wire.amqp.types import Symbol
from muster.wire.mqtt.packets import Puback, Publish, Suback, Subscribe
from support.amqp import AmqpClient
from support.device import hub_token, unique
from support.edge_hub import EdgeDevice
from support.events import events_of, wait_for
from support.mqtt import MqttClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

UP = "FROM /messages/* INTO $upstream"
CERTIFIED = {
    "authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB" * 20}}
}


class Below:
    """An edge device below the one that runs, with a leaf device that has no key."""

    def __init__(self, edge: EdgeDevice) -> None:
        self.edge = edge
        hub = edge.hub
        self.device_id, self.leaf = unique("low"), unique("leaf")
        made = hub.must(
            "PUT",
            f"/devices/{self.device_id}",
            {"capabilities": {"iotEdge": True}, "parentScopes": [edge.scope]},
        )
        hub.must("PUT", f"/devices/{self.leaf}", {"deviceScope": made["deviceScope"], **CERTIFIED})
        found = hub.must("GET", f"/devices/{self.device_id}/modules/$edgeHub")
        self.key = found["authentication"]["symmetricKey"]["primaryKey"]

    def token(self, ttl_s: int = 3600) -> str:
        return hub_token(self.edge.hub.host, f"{self.device_id}/$edgeHub", self.key, ttl_s=ttl_s)

    def mqtt(self, chain: str) -> tuple[MqttClient, int]:
        client = MqttClient(self.edge, self.edge.hostname)
        who = chain.partition(";")[0]
        name = f"{self.edge.hub.host}/{who}/?api-version=2020-09-30&auth-chain={chain}"
        return client, client.connect(who, name, self.token()).return_code

    def amqp(self) -> AmqpClient:
        client = AmqpClient(self.edge, self.edge.hostname)
        client.log_in(self.token())
        return client

    @property
    def chain(self) -> str:
        return f"{self.leaf};{self.device_id}"


@pytest.fixture
def edge(shared_instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    with EdgeDevice.make(shared_instance, tmp_path) as device:
        yield device


@pytest.fixture
def below(edge: EdgeDevice) -> Below:
    edge.desire(up=UP)
    made = Below(edge)
    edge.start()
    edge.wait_applied()
    return made


def refresh(edge: EdgeDevice) -> None:
    call = {"methodName": "RefreshDeviceScopeIdentityCache", "responseTimeoutInSeconds": 30}
    target = f"/twins/{edge.device_id}/modules/%24edgeHub/methods"
    assert edge.hub.must("POST", target, call)["status"] == 200


def test_over_mqtt_it_passes_on_with_a_longer_chain(
    shared_instance: Instance, below: Below
) -> None:
    client, code = below.mqtt(below.chain)
    with client:
        assert code == 0
        client.send(Publish(f"devices/{below.leaf}/messages/events/", b"up", 1, 1))
        client.expect(Puback)
        (event,) = events_of(shared_instance, below.leaf, 1)
        assert event["systemProperties"]["iothub-connection-device-id"] == below.leaf
        client.send(Subscribe(2, [("$iothub/methods/POST/#", 0)]))
        client.expect(Suback)
        hub, path = below.edge.hub, f"/devices/{below.leaf}"
        wait_for(lambda: hub.must("GET", path)["connectionState"] == "Connected")
        # The edge device in between is disabled: nothing of it is spoken for any more.
        body = hub.must("GET", f"/devices/{below.device_id}")
        body["status"] = "disabled"
        hub.must("PUT", f"/devices/{below.device_id}", body, if_match="*")
        wait_for(lambda: hub.must("GET", path)["connectionState"] == "Disconnected")
        refresh(below.edge)
        client.expect_closed()
    client, code = below.mqtt(below.chain)
    client.drop()
    assert code == 5


def test_over_amqp(shared_instance: Instance, below: Below) -> None:
    with below.amqp() as client:
        properties: dict[str, Any] = {Symbol("com.microsoft:auth-chain"): below.chain}
        address = f"/devices/{below.leaf}/messages/events"
        link = client.sender(address, properties=properties)
        body = messages.encode(Message(Data([b"up"])))
        assert client.outcome(client.transfer(link, body)).state == Accepted()
        (event,) = events_of(shared_instance, below.leaf, 1)
        assert event["systemProperties"]["iothub-connection-device-id"] == below.leaf
        refused = client.refusal(sends=True, address=f"/devices/{unique('x')}/messages/events")
        assert refused.error is not None
    with below.amqp() as client:
        detach = client.refusal(sends=True, address=address)
        assert detach.error is not None
        assert detach.error.condition == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    "chain",
    [
        "{leaf};{low};{top}",
        "{leaf};{top}",
        "{top}/$edgeHub;{top}",
        "{top}/m;{top}",
        "{stranger};{low}",
        "{leaf};{low};{leaf};{low}",
        "{leaf}",
        "",
    ],
)
def test_whom_it_may_not_speak_for(below: Below, chain: str) -> None:
    stranger = unique("stranger")
    below.edge.hub.must("PUT", f"/devices/{stranger}", CERTIFIED)
    below.edge.module_key("m")
    text = chain.format(
        leaf=below.leaf, low=below.device_id, top=below.edge.device_id, stranger=stranger
    )
    client, code = below.mqtt(text or below.leaf)
    client.drop()
    assert code in (3, 5)
    honest, code = below.mqtt(below.chain)
    with honest:
        assert code == 0
