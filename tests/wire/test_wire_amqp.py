"""AMQP connections to a hub: SASL, tokens, refusals (hub-device.md 3.1, 3.2, 3.8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from muster.hub.endpoints.amqp_client import MAX_ANSWERS
from muster.wire.amqp.performatives import Close, Detach
from muster.wire.amqp.types import Int, Symbol, ULong
from support.amqp import AmqpClient
from support.device import hub_token, unique
from support.secrets import CLOCK, new_key, remember, token

if TYPE_CHECKING:
    from support.instance import Instance


def client_of(instance: Instance, *, websocket: str | None = None) -> AmqpClient:
    return AmqpClient(instance, instance.place.hubs[0], websocket=websocket)


def created(instance: Instance, prefix: str = "amqp") -> tuple[str, str]:
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


def policy_token(instance: Instance, resource: str | None = None, **fields: Any) -> str:
    hub = instance.hub()
    return token(resource or hub.host, hub.key, key_name=hub.key_name, **fields)


def stream_token(instance: Instance, resource: str) -> str:
    """Sign as the Event Hubs SDKs do: with the text of the key (hub-service.md 0.2)."""
    hub = instance.hub()
    expiry = int(CLOCK.time()) + 3600
    raw = quote(resource, safe="")
    digest = hmac.digest(hub.key.encode(), f"{raw}\n{expiry}".encode(), hashlib.sha256)
    signature = quote(remember(base64.b64encode(digest).decode()), safe="")
    return f"SharedAccessSignature sr={raw}&sig={signature}&se={expiry}&skn={hub.key_name}"


@pytest.mark.parametrize("mechanism", ["ANONYMOUS", "MSSBCBS", "EXTERNAL", None])
@pytest.mark.parametrize("websocket", [None, "/$iothub/websocket", "/$servicebus/websocket"])
def test_every_way_in_leads_to_tokens(
    instance: Instance, mechanism: str | None, websocket: str | None
) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    with client_of(instance, websocket=websocket) as client:
        if mechanism is not None:
            assert client.sasl(mechanism) == 0
        opened = client.open()
        assert opened.container_id.startswith("DeviceGateway_")
        assert opened.max_frame_size == 65_536
        assert opened.idle_time_out == 240_000
        links = client.cbs()
        answer = client.put_token(links, hub_token(host, device_id, key))
        assert answer.application_properties == {"status-code": 200, "status-description": "OK"}


@pytest.mark.parametrize("message_id", [ULong(0), ULong(7), "text", uuid.uuid4(), b"bytes", None])
def test_answers_to_tokens_are_typed_as_every_client_needs(
    instance: Instance, message_id: Any
) -> None:
    device_id, key = created(instance)
    with client_of(instance) as client:
        client.open()
        links = client.cbs()
        sas = hub_token(instance.place.hubs[0], device_id, key)
        answer = client.put_token(links, sas, message_id=message_id)
        assert answer.properties.correlation_id == message_id
        assert type(answer.properties.correlation_id) is type(message_id)
        assert type(answer.application_properties["status-code"]) is Int


def test_tokens_of_every_maker(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id, key = created(instance)
    host = instance.place.hubs[0]
    good = {
        "device": hub_token(host, device_id, key),
        "policy": policy_token(instance),
        "policy for a device": policy_token(instance, f"{host}/devices/{device_id}"),
        "hub with port": policy_token(instance, f"{host}:5671"),
        "event stream, text key": stream_token(instance, f"sb://{host}/events"),
        "event stream with port": stream_token(instance, f"sb://{host}:5672/events"),
        "event stream, decoded key": policy_token(instance, f"sb://{host}/events"),
    }
    bad = {
        "wrong key": hub_token(host, device_id, new_key()),
        "expired": hub_token(host, device_id, key, ttl_s=-400),
        "unknown device": hub_token(host, unique("nobody"), key),
        "hub with its text key": stream_token(instance, host),
        "no token": "no token",
    }
    with client_of(instance) as client:
        client.open()
        links = client.cbs()
        for tokens, status in ((good, 200), (bad, 401)):
            for name, sas in tokens.items():
                with subtests.test(msg=name):
                    answer = client.put_token(links, sas)
                    assert answer.application_properties["status-code"] == status


def test_requests_that_are_none(instance: Instance) -> None:
    with client_of(instance) as client:
        client.open()
        links = client.cbs()
        for properties in ({"operation": "delete-token"}, {"type": "jwt"}):
            answer = client.put_token(links, "x", properties=properties)
            assert answer.application_properties["status-code"] == 400
        client.transfer(links[0], b"\0garbage")
        assert client.message(links[1]).message.application_properties["status-code"] == 400


def test_plain_of_policies_devices_and_modules(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    device_id, key = created(instance)
    module_key, _ = instance.hub().create_module(device_id, "m1")
    host = instance.place.hubs[0]
    hub = instance.hub()
    label = host.partition(".")[0]
    device, module = (
        hub_token(host, device_id, key),
        hub_token(host, f"{device_id}/m1", module_key),
    )
    for user, password, outcome in (
        (f"{hub.key_name}@sas.root.{label}", policy_token(instance), 0),
        (f"{device_id}@sas.{label}", device, 0),
        (f"{device_id}@sas.{label}", policy_token(instance), 0),
        (f"{device_id}/m1@sas.{label}", module, 0),
        (f"other@sas.root.{label}", policy_token(instance), 1),
        (f"{device_id}@sas.{label}", module, 1),
        (f"{unique('other')}@sas.{label}", device, 1),
        ("nobody", device, 1),
        (f"{device_id}@sas.{label}", hub_token(host, device_id, new_key()), 1),
    ):
        with subtests.test(msg=user), client_of(instance) as client:
            assert client.sasl("PLAIN", f"\0{user}\0{password}".encode()) == outcome
            if outcome:
                assert client.expect_closed() == []
            else:
                client.open()
    with client_of(instance) as client:
        assert client.sasl("PLAIN", b"nothing") == 1


def test_an_address_that_is_none_is_refused_as_all_clients_read_it(instance: Instance) -> None:
    with client_of(instance) as client:
        client.log_in(policy_token(instance))
        address = f"amqps://{instance.place.hubs[0]}:5671/{unique('no')}/thing"
        for sends in (True, False):
            detach = client.refusal(sends=sends, address=address)
            assert detach.error is not None
            assert detach.error.condition == "amqp:not-found"
            info = detach.error.info or {}
            assert info["com.microsoft:error-code"] == 404006
            assert all(type(key) is Symbol for key in info)
            (row, *_) = instance.explain(info["com.microsoft:tracking-id"])
            assert row["check"] == "address-not-found"
        # The connection is none the worse.
        client.cbs()


def test_refused_tokens_are_on_record(instance: Instance) -> None:
    device_id, _ = created(instance)
    host = instance.place.hubs[0]
    with client_of(instance) as client:
        client.open()
        client.put_token(client.cbs(), hub_token(host, device_id, new_key()))
    (row, *_) = instance.explain(device_id)
    assert row["check"] == "wrong-key"
    assert row["facts"]["transport"] == "amqp"


def test_a_client_that_says_it_leaves_is_answered(instance: Instance) -> None:
    with client_of(instance) as client:
        client.log_in(policy_token(instance))
        client.send(Close())
        assert client.expect_closed()[-1] == Close()


def test_answers_that_nobody_takes_are_not_kept(instance: Instance) -> None:
    with client_of(instance) as client:
        client.open()
        asks, hears = client.sender("$cbs"), client.receiver("$cbs", credit=0)
        for _ in range(MAX_ANSWERS + 1):
            client.outcome(client.transfer(asks, b"\0garbage"))
        lost = client.find(Detach)
        assert lost.handle == hears
        assert lost.error is not None
        assert lost.error.condition == "amqp:resource-limit-exceeded"
