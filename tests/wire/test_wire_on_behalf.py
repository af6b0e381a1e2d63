"""Edge hubs that speak for others, as the official one does it on the wire (edge.md 6.3 to 6.5)."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.performatives import Accepted, Close, Detach
from muster.wire.amqp.types import Symbol
from support.amqp import AmqpClient
from support.device import hub_connect, hub_token, unique
from support.events import events_of, wait_for
from support.secrets import new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance
    from support.mqtt import MqttClient

CERTIFIED = {
    "authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB" * 20}}
}


class Site:
    """An edge device below another one, with leaf devices that have no key."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.hub = instance.hub()
        self.keys: dict[str, str] = {}
        self.scopes: dict[str, str] = {}
        self.top = self._edge()
        self.low = self._edge(self.top)
        self.leaf, self.second = self._leaf(), self._leaf()

    def _edge(self, parent: str = "") -> str:
        name = unique("edge")
        parents = [self.scopes[parent]] if parent else []
        made = self.hub.must(
            "PUT",
            f"/devices/{name}",
            {"capabilities": {"iotEdge": True}, "parentScopes": parents},
        )
        self.scopes[name] = made["deviceScope"]
        found = self.hub.must("GET", f"/devices/{name}/modules/$edgeHub")
        self.keys[name] = found["authentication"]["symmetricKey"]["primaryKey"]
        return name

    def _leaf(self) -> str:
        name = unique("leaf")
        self.hub.must(
            "PUT", f"/devices/{name}", {"deviceScope": self.scopes[self.low], **CERTIFIED}
        )
        return name

    def token(self, edge: str, ttl_s: int = 3600) -> str:
        return hub_token(self.hub.host, f"{edge}/$edgeHub", self.keys[edge], ttl_s=ttl_s)

    def move(self, device_id: str, parent: str) -> None:
        body = self.hub.must("GET", f"/devices/{device_id}")
        body |= {"deviceScope": self.scopes[parent], "parentScopes": [self.scopes[parent]]}
        self.hub.must("PUT", f"/devices/{device_id}", body, if_match="*")

    def disable(self, device_id: str) -> None:
        body = self.hub.must("GET", f"/devices/{device_id}")
        self.hub.must("PUT", f"/devices/{device_id}", body | {"status": "disabled"}, if_match="*")

    # MQTT.

    def connack(self, chain: str, password: str | None = None) -> tuple[MqttClient, int]:
        who, actor = chain.partition(";")[0], chain.rpartition(";")[2]
        # As the SDK for C# writes it.
        name = (
            f"{self.hub.host}/{who}/?api-version=2020-09-30&DeviceClientType=x%2F1"
            f"&auth-chain={chain.replace(';', '%3B').replace('/', '%2F')}"
        )
        client, connack = hub_connect(
            self.instance, who, password or self.token(actor), username=name
        )
        return client, connack.return_code

    @contextmanager
    def mqtt(self, chain: str) -> Iterator[MqttClient]:
        client, code = self.connack(chain)
        with client:
            assert code == 0
            yield client

    # AMQP.

    def amqp(self, *edges: str, ttl_s: int = 3600) -> AmqpClient:
        client = AmqpClient(self.instance, self.hub.host)
        client.log_in(*(self.token(edge, ttl_s) for edge in edges))
        return client


def with_chain(chain: str) -> dict[str, Any]:
    return {"properties": {Symbol("com.microsoft:auth-chain"): chain}}


def events_address(name: str) -> str:
    device_id, _, module_id = name.partition("/")
    return (
        f"/devices/{device_id}"
        + (f"/modules/{module_id}" if module_id else "")
        + ("/messages/events")
    )


BODY = messages.encode(Message(Data([b"{}"])))


@pytest.fixture
def site(shared_instance: Instance) -> Site:
    return Site(shared_instance)


def connected(site: Site, device_id: str) -> bool:
    shown = site.hub.must("GET", f"/devices/{device_id}")
    return bool(shown["connectionState"] == "Connected")


def test_over_mqtt(site: Site) -> None:
    with (
        site.mqtt(f"{site.leaf};{site.low};{site.top}") as far,
        site.mqtt(f"{site.second};{site.low}") as near,
        site.mqtt(f"{site.low}/$edgeAgent;{site.low};{site.top}") as agent,
    ):
        for client, who in ((far, site.leaf), (near, site.second)):
            client.publish(f"devices/{who}/messages/events/", b"{}")
            (event,) = events_of(site.instance, who, 1)
            assert event["systemProperties"]["iothub-connection-device-id"] == who
        assert agent.is_open()
        site.move(site.leaf, site.top)
        far.expect_closed()
        assert near.is_open()
        site.disable(site.top)
        agent.expect_closed()
        site.disable(site.low)
        near.expect_closed()
    assert not connected(site, site.leaf)


def test_over_amqp(site: Site) -> None:
    with site.amqp(site.low) as client:
        names = (site.leaf, site.second, f"{site.low}/$edgeAgent")
        links = {
            name: client.sender(
                events_address(name),
                **with_chain(f"{name};{site.low}"),
            )
            for name in names
        }
        for link in links.values():
            assert client.outcome(client.transfer(link, BODY)).state == Accepted()
        for name in names[:2]:
            (event,) = events_of(site.instance, name, 1)
            assert event["systemProperties"]["iothub-connection-device-id"] == name
            assert connected(site, name)
        # Only what leads over the changed device ends.
        site.move(site.leaf, site.top)
        detach = client.find(Detach, lambda said: said.handle == links[site.leaf])
        assert detach.error is not None
        assert detach.error.condition == "amqp:unauthorized-access"
        other = client.transfer(links[site.second], BODY)
        assert client.outcome(other).state == Accepted()
        site.disable(site.low)
        said = client.expect_closed()
        assert isinstance(said[-1], Close)


def test_a_longer_chain_over_amqp(site: Site) -> None:
    with site.amqp(site.top, site.low) as client:
        chain = f"{site.leaf};{site.low};{site.top}"
        link = client.sender(events_address(site.leaf), **with_chain(chain))
        assert client.outcome(client.transfer(link, BODY)).state == Accepted()


@pytest.mark.parametrize("case", ["no chain", "not below", "nobody's token", "another's"])
def test_what_amqp_refuses(site: Site, case: str) -> None:
    chain = {
        "no chain": "",
        "not below": f"{site.leaf};{site.top}",
        "nobody's token": f"{site.leaf};{site.low};{site.top}",
        "another's": f"{site.second};{site.low}",
    }[case]
    check = {
        "no chain": "wrong-audience",
        "not below": "broken-auth-chain",
        "nobody's token": "wrong-audience",
        "another's": "wrong-auth-chain",
    }[case]
    edge = site.top if case == "not below" else site.low
    with site.amqp(edge) as client:
        detach = client.refusal(
            sends=True, address=events_address(site.leaf), **with_chain(chain) if chain else {}
        )
        assert detach.error is not None
        assert detach.error.condition == "amqp:unauthorized-access"
        # The edge hub itself is on the connection as before.
        client.sender(events_address(f"{edge}/$edgeHub"))
    assert site.instance.explain(site.leaf)[0]["check"] == check


def test_amqp_sessions_live_as_long_as_the_edge_hubs_token(site: Site) -> None:
    with (
        AmqpClient(site.instance, site.hub.host) as renewed,
        site.amqp(site.top, ttl_s=-297) as left,
    ):
        cbs = renewed.log_in(site.token(site.low, ttl_s=-296))
        link = renewed.sender(events_address(site.leaf), **with_chain(f"{site.leaf};{site.low}"))
        renewed.put_token(cbs, site.token(site.low))
        chain = f"{site.second};{site.low};{site.top}"
        left.sender(events_address(site.second), **with_chain(chain))
        left.expect_closed()
        wait_for(lambda: not connected(site, site.second))
        assert renewed.outcome(renewed.transfer(link, BODY)).state == Accepted()


def test_forged_chains_over_mqtt(site: Site, subtests: pytest.Subtests) -> None:
    """Everything that random chains can say; none lets anybody in who is not below the speaker."""
    chance = random.Random(7)
    names = [site.leaf, site.second, site.low, site.top, "nobody", f"{site.leaf}/m", "$edgeHub"]
    good = {
        (site.leaf, site.low),
        (site.second, site.low),
        (site.leaf, site.low, site.top),
        (site.second, site.low, site.top),
        (site.low, site.top),
    }
    tried = 0
    while tried < 40:
        chain = tuple(chance.choice(names) for _ in range(chance.randrange(2, 6)))
        if chain in good or chain[-1] not in site.keys:
            continue
        tried += 1
        with subtests.test(chain=";".join(chain)):
            client, code = site.connack(";".join(chain))
            client.drop()
            assert code == 5
    wrong = hub_token(site.hub.host, f"{site.low}/$edgeHub", new_key())
    client, code = site.connack(f"{site.leaf};{site.low}", wrong)
    client.drop()
    assert code == 5
    assert site.instance.explain(site.leaf)[0]["check"] == "wrong-edge-hub-token"
    huge = ";".join([site.leaf, *(f"d{number}" for number in range(5_000)), site.low])
    client, code = site.connack(huge)
    client.drop()
    assert code == 5
    with site.mqtt(f"{site.leaf};{site.low}") as honest:
        assert honest.is_open()
