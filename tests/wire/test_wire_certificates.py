"""Devices and modules with client certificates, over every transport (hub-device.md 1.3, 5)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message
from muster.wire.amqp.performatives import Accepted
from support.amqp import AmqpClient
from support.certificates import ClientCertificate, self_signed
from support.device import hub_connect, hub_login, unique
from support.events import events_of
from support.https import request
from support.secrets import new_key

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance

X509 = '{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}'
VERSION = "api-version=2021-04-12"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    """Return a certificate that most tests register."""
    return ClientCertificate.make(tmp_path_factory.mktemp("own"), rsa_key=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    """Return one that nobody registers."""
    return ClientCertificate.make(tmp_path_factory.mktemp("other"))


def created(instance: Instance, certificate: ClientCertificate) -> str:
    """Create a device that has the certificate, and return its ID."""
    device_id = unique("x509")
    instance.hub().must(
        "PUT",
        f"/devices/{device_id}",
        {"deviceId": device_id, "authentication": self_signed(certificate.sha256)},
    )
    return device_id


def only_event(instance: Instance, device_id: str) -> dict[str, object]:
    (event,) = events_of(instance, device_id, 1)
    found: dict[str, object] = event["systemProperties"]
    return found


@pytest.mark.parametrize("websocket", [None, "mqtt"])
def test_mqtt(instance: Instance, own: ClientCertificate, websocket: str | None) -> None:
    device_id = created(instance, own)
    client, connack = hub_connect(instance, device_id, None, websocket=websocket, certificate=own)
    with client:
        assert connack.return_code == 0
        client.publish(f"devices/{device_id}/messages/events/", b"{}")
    assert only_event(instance, device_id)["iothub-connection-auth-method"] == X509


@pytest.mark.parametrize("digits", ["sha1", "sha256"])
@pytest.mark.parametrize("slot", ["primaryThumbprint", "secondaryThumbprint"])
def test_either_hash_in_either_place(
    instance: Instance, own: ClientCertificate, digits: str, slot: str
) -> None:
    device_id = unique("x509")
    text = getattr(own, digits).upper()
    with_colons = ":".join(text[at : at + 2] for at in range(0, len(text), 2))
    proof = {"type": "selfSigned", "x509Thumbprint": {slot: with_colons}}
    body = {"deviceId": device_id, "authentication": proof}
    shown = instance.hub().must("PUT", f"/devices/{device_id}", body)
    assert shown["authentication"]["x509Thumbprint"][slot] == text
    client, connack = hub_connect(instance, device_id, None, certificate=own)
    with client:
        assert connack.return_code == 0


def test_another_certificate_is_refused_and_explained(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    device_id = created(instance, own)
    client, connack = hub_connect(instance, device_id, None, certificate=other)
    with client:
        assert connack.return_code == 5
    explained = instance.explain(device_id)[0]
    assert explained["check"] == "wrong-certificate"
    assert other.sha256.upper() in explained["cause"]
    assert f"--thumbprint {other.sha256.upper()}" in explained["remedy"]


def test_without_a_certificate_it_is_refused(instance: Instance, own: ClientCertificate) -> None:
    device_id = created(instance, own)
    client, connack = hub_connect(instance, device_id, None)
    with client:
        assert connack.return_code == 5
    assert instance.explain(device_id)[0]["check"] == "token-missing"


def test_a_websocket_may_say_that_there_is_none(instance: Instance, own: ClientCertificate) -> None:
    device_id = created(instance, own)
    client, connack = hub_connect(
        instance,
        device_id,
        None,
        websocket="mqtt",
        query="?iothub-no-client-cert=true",
        certificate=own,
    )
    with client:
        assert connack.return_code == 5


def test_a_device_with_a_key_is_not_asked_for_more(
    instance: Instance, other: ClientCertificate
) -> None:
    device_id = unique("sas")
    key, _ = instance.hub().create_device(device_id)
    with hub_login(instance, device_id, key, certificate=other) as client:
        assert client.is_open()


def test_modules_have_certificates_of_their_own(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    device_id = created(instance, own)
    path = f"/devices/{device_id}/modules/m1"
    body = {"deviceId": device_id, "moduleId": "m1", "authentication": self_signed(other.sha1)}
    instance.hub().must("PUT", path, body)
    client, connack = hub_connect(instance, f"{device_id}/m1", None, certificate=own)
    with client:
        assert connack.return_code == 5
    client, connack = hub_connect(instance, f"{device_id}/m1", None, certificate=other)
    with client:
        assert connack.return_code == 0


def test_a_withdrawn_certificate_ends_the_connection(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    device_id = created(instance, own)
    client, connack = hub_connect(instance, device_id, None, certificate=own)
    with client:
        assert connack.return_code == 0
        body = {"deviceId": device_id, "authentication": self_signed(other.sha1)}
        instance.hub().must("PUT", f"/devices/{device_id}", body, if_match="*")
        client.expect_closed()


# HTTPS.


def call(
    instance: Instance, method: str, path: str, body: bytes, certificate: ClientCertificate
) -> Reply:
    host = instance.place.hubs[0]
    url = f"{path}?{VERSION}"
    return request(
        instance.place,
        instance.ca_file,
        method,
        url,
        host=host,
        headers={"Content-Type": "application/json"},
        body=body,
        certificate=certificate,
    )


def test_https(instance: Instance, own: ClientCertificate, other: ClientCertificate) -> None:
    device_id = created(instance, own)
    path = f"/devices/{device_id}/messages/events"
    assert call(instance, "POST", path, b'{"t":1}', own).status == 204
    assert only_event(instance, device_id)["iothub-connection-auth-method"] == X509
    assert call(instance, "POST", path, b"{}", other).status == 401


def test_a_daemon_makes_its_modules(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    """The edge daemons manage modules by the certificate of their device (hub-device.md 4)."""
    device_id = created(instance, own)
    key = base64.b64encode(b"k" * 32).decode()
    keys = {"primaryKey": key, "secondaryKey": new_key()}
    body = json.dumps(
        {
            "deviceId": device_id,
            "moduleId": "m1",
            "authentication": {"type": "sas", "symmetricKey": keys},
        }
    ).encode()
    path = f"/devices/{device_id}/modules/m1"
    assert call(instance, "PUT", path, body, other).status == 401
    assert call(instance, "PUT", path, body, own).status == 200
    with hub_login(instance, f"{device_id}/m1", key) as client:
        assert client.is_open()


# AMQP.


def text() -> bytes:
    return messages.encode(Message(Data([b"{}"])))


@pytest.mark.parametrize("mechanism", [None, "EXTERNAL", "ANONYMOUS"])
def test_amqp_needs_no_token(
    instance: Instance, own: ClientCertificate, mechanism: str | None
) -> None:
    device_id = created(instance, own)
    with AmqpClient(instance, instance.place.hubs[0], certificate=own) as client:
        if mechanism is not None:
            assert client.sasl(mechanism) == 0
        client.open()
        link = client.sender(f"/devices/{device_id}/messages/events")
        assert client.outcome(client.transfer(link, text())).state == Accepted()
    assert only_event(instance, device_id)["iothub-connection-auth-method"] == X509


def test_amqp_over_a_websocket(instance: Instance, own: ClientCertificate) -> None:
    device_id = created(instance, own)
    host = instance.place.hubs[0]
    with AmqpClient(instance, host, websocket="/$iothub/websocket", certificate=own) as client:
        client.open()
        link = client.sender(f"/devices/{device_id}/messages/events")
        assert client.outcome(client.transfer(link, text())).state == Accepted()


def test_amqp_refuses_links_of_others(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    device_id = created(instance, own)
    with AmqpClient(instance, instance.place.hubs[0], certificate=other) as client:
        client.open()
        refusal = client.refusal(sends=True, address=f"/devices/{device_id}/messages/events")
        assert refusal.error is not None
        assert refusal.error.condition == "amqp:unauthorized-access"
    assert instance.explain(device_id)[0]["check"] == "wrong-certificate"
