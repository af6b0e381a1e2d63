"""Client certificates with the official clients: registry, Python devices, Node devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub import IoTHubRegistryManager

from support.certificates import ClientCertificate, self_signed
from support.device import unique
from support.events import events_of
from support.node import run_script, value_of

if TYPE_CHECKING:
    from support.instance import Instance

X509_METHOD = '{"scope":"%s","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    """Return a certificate that the tests register."""
    return ClientCertificate.make(tmp_path_factory.mktemp("own"), rsa_key=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    """Return one that is the second of some, or nobody's."""
    return ClientCertificate.make(tmp_path_factory.mktemp("other"))


def created(instance: Instance, certificate: ClientCertificate, module_id: str = "") -> str:
    """Create a device that has the certificate, or whose module has it; return its ID."""
    device_id = unique("x509")
    hub = instance.hub()
    proof = {"authentication": self_signed(certificate.sha256)}
    if not module_id:
        hub.must("PUT", f"/devices/{device_id}", {"deviceId": device_id, **proof})
        return device_id
    hub.create_device(device_id)
    body = {"deviceId": device_id, "moduleId": module_id, **proof}
    hub.must("PUT", f"/devices/{device_id}/modules/{module_id}", body)
    return device_id


def method_of(instance: Instance, device_id: str) -> object:
    (event,) = events_of(instance, device_id, 1)
    return event["systemProperties"]["iothub-connection-auth-method"]


def test_the_registry_manager_knows_thumbprints(
    instance: Instance, own: ClientCertificate, other: ClientCertificate
) -> None:
    host = instance.place.hubs[0]
    manager = IoTHubRegistryManager.from_connection_string(instance.hub_connection_string(host))
    device_id = unique("x509")
    first, second = own.sha1.upper(), other.sha256
    made = manager.create_device_with_x509(device_id, first, second, "enabled")
    assert made.authentication.type == "selfSigned"
    assert made.authentication.x509_thumbprint.primary_thumbprint == first
    assert made.authentication.x509_thumbprint.secondary_thumbprint == second
    twin = manager.get_twin(device_id)
    assert twin.authentication_type == "selfSigned"
    assert twin.x509_thumbprint.primary_thumbprint == first
    changed = manager.update_device_with_x509(device_id, made.etag, second, first, "disabled")
    assert changed.status == "disabled"
    assert manager.get_device(device_id).authentication.x509_thumbprint.primary_thumbprint == second

    module = manager.create_module_with_x509(device_id, "m1", "", first, second)
    assert module.authentication.x509_thumbprint.secondary_thumbprint == second
    module = manager.update_module_with_x509(device_id, "m1", "", module.etag, second, first)
    assert manager.get_module(
        device_id, "m1"
    ).authentication.x509_thumbprint.primary_thumbprint == (second)


def python_options(instance: Instance, certificate: ClientCertificate, device_id: str) -> Any:
    return {
        "x509": X509(cert_file=str(certificate.file), key_file=str(certificate.file)),
        "hostname": instance.place.hubs[0],
        "device_id": device_id,
        "server_verification_cert": instance.ca,
    }


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_python_devices(
    instance: Instance, own: ClientCertificate, other: ClientCertificate, *, websockets: bool
) -> None:
    device_id = created(instance, own)
    client = IoTHubDeviceClient.create_from_x509_certificate(
        **python_options(instance, own, device_id), websockets=websockets
    )
    try:
        client.send_message("with a certificate")
        assert client.get_twin()["desired"] == {"$version": 1}
    finally:
        client.shutdown()
    assert method_of(instance, device_id) == X509_METHOD % "device"

    client = IoTHubDeviceClient.create_from_x509_certificate(
        **python_options(instance, other, device_id), websockets=websockets
    )
    try:
        with pytest.raises(CredentialError):
            client.connect()
    finally:
        client.shutdown()


def test_python_modules(instance: Instance, own: ClientCertificate) -> None:
    device_id = created(instance, own, "m1")
    client = IoTHubModuleClient.create_from_x509_certificate(
        **python_options(instance, own, device_id), module_id="m1"
    )
    try:
        client.send_message("with a certificate")
    finally:
        client.shutdown()
    assert method_of(instance, device_id) == X509_METHOD % "module"


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws", "http"])
def test_node_devices(
    instance: Instance, own: ClientCertificate, other: ClientCertificate, transport: str
) -> None:
    device_id = created(instance, own)
    context = {
        "host": instance.place.hubs[0],
        "deviceId": device_id,
        "transport": transport,
        "own": {"cert": own.certificate, "key": own.key},
        "other": {"cert": other.certificate, "key": other.key},
    }
    results = run_script(instance, "certificates.js", context)
    assert value_of(results, "own") is True
    assert value_of(results, "other")["name"] == "UnauthorizedError"
    assert method_of(instance, device_id) == X509_METHOD % "device"
