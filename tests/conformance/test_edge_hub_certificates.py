"""Clients with certificates and no keys: the edge hub speaks upstream on their behalf."""

from __future__ import annotations

import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse

from support.certificates import ClientCertificate, self_signed
from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy
from support.events import events_of, wait_for
from support.node import run_script, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.edge_hub import EdgeDevice
    from support.instance import Instance

PATIENCE_S = 60.0
UP = "FROM /messages/* INTO $upstream"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    return ClientCertificate.make(tmp_path_factory.mktemp("own"), rsa_key=True)


def options(edge: EdgeDevice, certificate: ClientCertificate, device_id: str) -> dict[str, Any]:
    return {
        "x509": X509(cert_file=str(certificate.file), key_file=str(certificate.file)),
        "hostname": edge.hub.host,
        "gateway_hostname": edge.hostname,
        "device_id": device_id,
        "server_verification_cert": edge.trust,
    }


@contextmanager
def leaf(
    edge: EdgeDevice, certificate: ClientCertificate, device_id: str, **more: Any
) -> Iterator[IoTHubDeviceClient]:
    client = IoTHubDeviceClient.create_from_x509_certificate(
        **options(edge, certificate, device_id), **more
    )
    try:
        yield client
    finally:
        client.shutdown()


def answer_methods(client: IoTHubDeviceClient | IoTHubModuleClient) -> None:
    def answer(request: Any) -> None:
        payload = {"name": request.name, "payload": request.payload}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 200, payload)
        )

    client.on_method_request_received = answer


CALL = {
    "methodName": "turn",
    "payload": {"x": [1]},
    "connectTimeoutInSeconds": 30,
    "responseTimeoutInSeconds": 30,
}


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_a_leaf_device_with_a_certificate_has_all_that_others_have(
    instance: Instance, edge: EdgeDevice, own: ClientCertificate, *, websockets: bool
) -> None:
    edge.desire(up=UP)
    device_id = unique("leaf")
    edge.certified_leaf(device_id, own)
    edge.start()
    edge.wait_applied()
    hub, path = instance.hub(), f"/twins/{device_id}"
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    messages: queue.Queue[Message] = queue.Queue()
    with leaf(edge, own, device_id, websockets=websockets) as device:
        device.send_message("without a key")
        (event,) = events_of(instance, device_id, 1)
        assert event["body"] == "without a key"
        assert event["systemProperties"]["iothub-connection-device-id"] == device_id
        assert "iothub-connection-module-id" not in event["systemProperties"]

        device.on_twin_desired_properties_patch_received = patches.put
        hub.must("PATCH", path, {"properties": {"desired": {"speed": 2}}})
        assert patches.get(timeout=PATIENCE_S)["speed"] == 2
        assert device.get_twin()["desired"]["speed"] == 2
        device.patch_twin_reported_properties({"ok": True})
        wait_for(
            lambda: hub.must("GET", path)["properties"]["reported"].get("ok") is True, PATIENCE_S
        )

        answer_methods(device)
        device.connect()
        result = hub.must("POST", f"{path}/methods", CALL)
        assert result == {"status": 200, "payload": {"name": "turn", "payload": {"x": [1]}}}

        device.on_message_received = messages.put
        hub.send_message(device_id, b"hello", properties={"k": "v"})
        got = messages.get(timeout=PATIENCE_S)
        assert (got.data, got.custom_properties["k"]) == (b"hello", "v")
        wait_for(lambda: hub.message_count(device_id) == 0, PATIENCE_S)
        assert hub.must("GET", f"/devices/{device_id}")["connectionState"] == "Connected"
    wait_for(
        lambda: hub.must("GET", f"/devices/{device_id}")["connectionState"] == "Disconnected",
        PATIENCE_S,
    )


def test_so_has_a_module(instance: Instance, edge: EdgeDevice, own: ClientCertificate) -> None:
    edge.desire(up=UP)
    edge.certified_module("m", own)
    edge.start()
    edge.wait_applied()
    client = IoTHubModuleClient.create_from_x509_certificate(
        **options(edge, own, edge.device_id), module_id="m"
    )
    try:
        client.send_message_to_output(Message("a module"), "out")
        (event,) = events_of(instance, edge.device_id, 1)
        assert (event["moduleId"], event["body"]) == ("m", "a module")
        answer_methods(client)
        client.connect()
        path = f"/twins/{edge.device_id}/modules/m/methods"
        assert instance.hub().must("POST", path, CALL)["status"] == 200
    finally:
        client.shutdown()


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def test_node_devices(
    instance: Instance,
    edge: EdgeDevice,
    own: ClientCertificate,
    tmp_path: Path,
    transport: str,
) -> None:
    edge.desire(up=UP)
    device_id = unique("leaf")
    edge.certified_leaf(device_id, own)
    edge.start()
    edge.wait_applied()
    other = ClientCertificate.make(tmp_path)
    context = {
        "host": edge.hostname,
        "deviceId": device_id,
        "transport": transport,
        "own": {"cert": own.certificate, "key": own.key},
        "other": {"cert": other.certificate, "key": other.key},
    }
    results = run_script(edge, "certificates.js", context)
    assert value_of(results, "own") is True
    assert value_of(results, "other")["name"] == "UnauthorizedError"
    assert len(events_of(instance, device_id, 1)) == 1


def test_what_it_said_without_a_link_arrives(
    instance: Instance, edge: EdgeDevice, own: ClientCertificate
) -> None:
    edge.desire(up=UP)
    device_id = unique("leaf")
    edge.certified_leaf(device_id, own)
    edge.start()
    edge.wait_applied()
    with leaf(edge, own, device_id) as device:
        device.connect()
        edge.proxy.cut()
        device.send_message("first")
        edge.kill9()
        edge.start()
        device.send_message("second")
    edge.proxy.restore()
    assert [each["body"] for each in events_of(instance, device_id, 2)] == ["first", "second"]


def test_a_leaf_that_is_moved_away_is_spoken_for_no_more(
    instance: Instance, edge: EdgeDevice, own: ClientCertificate
) -> None:
    """The hub refuses and says why; the edge hub serves on, and says once that it may not speak."""
    edge.desire(up=UP)
    device_id, other = unique("leaf"), unique("other")
    edge.certified_leaf(device_id, own)
    edge.start()
    edge.wait_applied()
    hub = instance.hub()
    hub.create_device(other, capabilities={"iotEdge": True})
    elsewhere = hub.must("GET", f"/devices/{other}")["deviceScope"]
    with leaf(edge, own, device_id) as device:
        device.send_message("before")
        assert len(events_of(instance, device_id, 1)) == 1
        shown = hub.must("GET", f"/devices/{device_id}")
        shown |= {"deviceScope": elsewhere, "parentScopes": [elsewhere]}
        hub.must("PUT", f"/devices/{device_id}", shown, if_match="*")
        wait_for(
            lambda: any(
                each["check"] == "broken-auth-chain" for each in instance.explain(device_id)
            ),
            PATIENCE_S,
        )
        device.send_message("after")
        wait_for(lambda: edge.log.read_text().count("nobody speaks upstream") == 1, PATIENCE_S)
        assert edge.view()["queues"]
        # Back again: what waited arrives.
        shown |= {"deviceScope": edge.scope, "parentScopes": [edge.scope]}
        hub.must("PUT", f"/devices/{device_id}", shown, if_match="*")
        assert [each["body"] for each in events_of(instance, device_id, 2)] == ["before", "after"]


@pytest.mark.timeout(240)
def test_through_a_whole_device(instance: Instance, own: ClientCertificate) -> None:
    device_id, leaf_id = unique("edge"), unique("leaf")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    hub, path = instance.hub(), f"/twins/{leaf_id}"
    with EdgeDaemon(instance) as daemon:
        daemon.configure(device_id, key)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        deploy(instance, device_id, {}, routes={"up": UP})
        scope = hub.must("GET", f"/devices/{device_id}")["deviceScope"]
        body = {"deviceScope": scope, "authentication": self_signed(own.sha256)}
        hub.must("PUT", f"/devices/{leaf_id}", {"deviceId": leaf_id, **body})
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=X509(cert_file=str(own.file), key_file=str(own.file)),
            hostname=hub.host,
            device_id=leaf_id,
            gateway_hostname=daemon.hostname,
            server_verification_cert=daemon.root.read_text(),
        )
        try:
            answer_methods(client)
            client.send_message("no key, no token")
            (event,) = events_of(instance, leaf_id, 1)
            assert event["body"] == "no key, no token"
            assert event["systemProperties"]["iothub-connection-device-id"] == leaf_id
            client.patch_twin_reported_properties({"door": "open"})
            reported = lambda: hub.must("GET", path)["properties"]["reported"]  # noqa: E731
            wait_for(lambda: reported().get("door") == "open", PATIENCE_S)
            assert hub.must("POST", f"{path}/methods", CALL)["status"] == 200
        finally:
            client.shutdown()
        assert daemon.end() == 0
