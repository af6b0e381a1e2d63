"""Modules and leaf devices with `azure-iot-device`, through the edge hub of their device."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import (
    IoTHubDeviceClient,
    IoTHubModuleClient,
    Message,
    MethodResponse,
)

from support.device import unique
from support.events import events_of, wait_for
from support.ledger import Ledger, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.edge_hub import EdgeDevice
    from support.instance import Instance

PATIENCE_S = 60.0
UP = "FROM /messages/* INTO $upstream"


@contextmanager
def module(edge: EdgeDevice, module_id: str, **options: Any) -> Iterator[IoTHubModuleClient]:
    client = IoTHubModuleClient.create_from_connection_string(
        edge.module(module_id), server_verification_cert=edge.trust, **options
    )
    try:
        yield client
    finally:
        client.shutdown()


@contextmanager
def leaf(edge: EdgeDevice, connection_string: str, **options: Any) -> Iterator[IoTHubDeviceClient]:
    client = IoTHubDeviceClient.create_from_connection_string(
        connection_string, server_verification_cert=edge.trust, **options
    )
    try:
        yield client
    finally:
        client.shutdown()


def answer_methods(client: IoTHubModuleClient | IoTHubDeviceClient) -> None:
    def answer(request: Any) -> None:
        payload = {"name": request.name, "payload": request.payload}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 200, payload)
        )

    client.on_method_request_received = answer


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_messages_go_where_routes_say(
    instance: Instance, edge: EdgeDevice, *, websockets: bool
) -> None:
    edge.desire(
        up={"route": "FROM /messages/modules/a/outputs/up INTO $upstream", "priority": 1},
        leaves="FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
        across="FROM /messages/modules/a/outputs/* WHERE alert = 'yes' "
        'INTO BrokeredEndpoint("/modules/b/inputs/alerts")',
    )
    leaf_id = unique("leaf")
    login = edge.leaf(leaf_id)
    edge.module("a"), edge.module("b")
    edge.start()
    edge.wait_applied()
    arrived: queue.Queue[Message] = queue.Queue()
    options = {"websockets": websockets}
    with (
        module(edge, "b", **options) as b,
        module(edge, "a", **options) as a,
        leaf(edge, login, **options) as device,
    ):
        b.on_message_received = arrived.put
        b.connect()
        message = Message(json.dumps({"t": 1}))
        message.message_id = "m 1"
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message.custom_properties["alert"] = "yes"
        a.send_message_to_output(message, "up")
        a.send_message_to_output(Message("quiet"), "up")
        a.send_message_to_output(Message("nowhere"), "other")
        device.send_message("from a leaf")
        got = arrived.get(timeout=PATIENCE_S)
        assert got.input_name == "alerts"
        assert json.loads(got.data) == {"t": 1}
        assert got.message_id == "m 1"
        assert got.custom_properties["alert"] == "yes"
        assert got.custom_properties["$.cdid"] == edge.device_id
        assert got.custom_properties["$.cmid"] == "a"
    first, second = events_of(instance, edge.device_id, 2)
    assert first["moduleId"] == "a"
    assert first["body"] == {"t": 1}
    assert first["properties"] == {"alert": "yes"}
    assert first["systemProperties"]["iothub-outputname"] == "up"
    assert second["body"] == "quiet"
    (event,) = events_of(instance, leaf_id, 1)
    assert event["body"] == "from a leaf"
    assert arrived.empty()
    wait_for(lambda: not edge.view()["queues"])
    assert edge.view()["dropped"]["unrouted"] == 1


@contextmanager
def in_its_environment(
    edge: EdgeDevice, module_id: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[IoTHubModuleClient]:
    """Make a client as a module that runs on the device does; only such a one calls others."""
    monkeypatch.setenv("EdgeHubConnectionString", edge.module(module_id))
    monkeypatch.setenv("EdgeModuleCACertificateFile", str(edge.directory / "trust.pem"))
    client = IoTHubModuleClient.create_from_edge_environment()
    try:
        yield client
    finally:
        client.shutdown()


def test_twins_methods_and_cloud_messages_pass_through(
    instance: Instance, edge: EdgeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.desire(up=UP)
    leaf_id = unique("leaf")
    login = edge.leaf(leaf_id)
    edge.module("a"), edge.module("b")
    edge.start()
    edge.wait_applied()
    hub = instance.hub()
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    messages: queue.Queue[Message] = queue.Queue()
    with (
        in_its_environment(edge, "a", monkeypatch) as a,
        module(edge, "b") as b,
        leaf(edge, login) as device,
    ):
        path = f"/twins/{edge.device_id}/modules/a"
        hub.must("PATCH", path, {"properties": {"desired": {"speed": 1}}})
        a.on_twin_desired_properties_patch_received = patches.put
        # The client makes a patch of the twin it reads when the handler is set.
        assert patches.get(timeout=PATIENCE_S)["speed"] == 1
        assert a.get_twin()["desired"]["speed"] == 1
        a.patch_twin_reported_properties({"speed": 1, "ok": True})
        hub.must("PATCH", path, {"properties": {"desired": {"speed": 2}}})
        patch = patches.get(timeout=PATIENCE_S)
        assert patch["speed"] == 2
        reported = lambda: hub.must("GET", path)["properties"]["reported"]  # noqa: E731
        wait_for(lambda: reported().get("ok") is True, PATIENCE_S)

        answer_methods(b)
        b.connect()
        target = f"/twins/{edge.device_id}/modules/b/methods"
        call = {
            "methodName": "turn",
            "payload": {"x": [1]},
            "connectTimeoutInSeconds": 30,
            "responseTimeoutInSeconds": 30,
        }
        result = hub.must("POST", target, call)
        assert result == {"status": 200, "payload": {"name": "turn", "payload": {"x": [1]}}}
        a.connect()
        across = a.invoke_method(
            {"methodName": "across", "payload": "p", "responseTimeoutInSeconds": 20},
            edge.device_id,
            "b",
        )
        assert across["status"] == 200
        assert across["payload"] == {"name": "across", "payload": "p"}

        device.on_message_received = messages.put
        device.connect()
        hub.send_message(leaf_id, b"hello", properties={"k": "v"})
        got = messages.get(timeout=PATIENCE_S)
        assert got.data == b"hello"
        assert got.custom_properties["k"] == "v"
        wait_for(lambda: hub.message_count(leaf_id) == 0, PATIENCE_S)

        wait_for(lambda: len(edge.reported.get("clients", {})) == 3, PATIENCE_S)
        clients = edge.reported["clients"]
        assert clients[f"{edge.device_id}/a"]["status"] == "Connected"
        assert clients[leaf_id]["status"] == "Connected"
    wait_for(lambda: leaf_id not in edge.reported["clients"], PATIENCE_S)
    wait_for(
        lambda: edge.reported["clients"][f"{edge.device_id}/a"]["status"] == "Disconnected",
        PATIENCE_S,
    )


def send(ledger: Ledger, client: IoTHubModuleClient) -> None:
    number = ledger.next()
    client.send_message_to_output(Message(str(number)), "out")
    ledger.accepted.append(number)


def test_nothing_is_lost_while_the_link_is_cut(instance: Instance, edge: EdgeDevice) -> None:
    edge.desire(up=UP, across='FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/all")')
    edge.module("a"), edge.module("b")
    edge.start()
    edge.wait_applied()
    ledger, arrived = Ledger(), []
    with module(edge, "b") as b, module(edge, "a") as a:
        b.on_message_received = lambda message: arrived.append(int(message.data))
        b.connect()
        for round_ in range(3):
            for _ in range(20):
                send(ledger, a)
            edge.proxy.cut()
            for _ in range(40):
                send(ledger, a)
            if round_ == 1:
                # What works without the cloud: twins, module to module.
                a.patch_twin_reported_properties({"offline": True})
                assert a.get_twin()["reported"]["offline"] is True
            edge.proxy.restore()
        seen = numbers(instance, edge.device_id, ledger.number)
        duplicates = ledger.check(seen)
        assert duplicates <= len(ledger.accepted) // 2
        wait_for(lambda: len(arrived) >= ledger.number, PATIENCE_S)
        assert arrived == ledger.accepted
        twin = lambda: instance.hub().must(  # noqa: E731
            "GET", f"/twins/{edge.device_id}/modules/a"
        )
        wait_for(lambda: twin()["properties"]["reported"].get("offline") is True, PATIENCE_S)
    wait_for(lambda: not edge.view()["queues"])


def test_killed_at_any_moment_it_loses_nothing_it_had_accepted(
    instance: Instance, edge: EdgeDevice
) -> None:
    edge.desire(up=UP)
    edge.module("a")
    edge.start()
    edge.wait_applied()
    ledger = Ledger()
    with module(edge, "a") as a:
        for life in range(2):
            if life % 2:
                edge.proxy.cut()
            sending = threading.Thread(target=lambda: [send(ledger, a) for _ in range(60)])
            sending.start()
            enough = life * 60 + 25
            wait_for(lambda enough=enough: len(ledger.accepted) >= enough, PATIENCE_S)
            edge.kill9()
            # Also without the cloud: the scope and the routes are on disk.
            edge.start()
            sending.join(PATIENCE_S)
            assert not sending.is_alive()
            edge.proxy.restore()
        seen = numbers(instance, edge.device_id, ledger.number)
    ledger.check(seen)


def test_desired_changes_missed_while_away_come_with_the_next_connect(
    instance: Instance, edge: EdgeDevice
) -> None:
    edge.desire(up=UP)
    edge.module("a")
    edge.start()
    edge.wait_applied()
    path = f"/twins/{edge.device_id}/modules/a"
    hub = instance.hub()
    hub.must("PATCH", path, {"properties": {"desired": {"a": 1, "b": 1}}})
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    with module(edge, "a") as a:
        a.on_twin_desired_properties_patch_received = patches.put
        # The client makes a patch of the twin it reads when the handler is set.
        assert patches.get(timeout=PATIENCE_S)["a"] == 1
        edge.proxy.cut()
        hub.must("PATCH", path, {"properties": {"desired": {"a": 2, "b": None}}})
        hub.must("PATCH", path, {"properties": {"desired": {"c": {"d": 1}}}})
        assert a.get_twin()["desired"]["a"] == 1
        edge.proxy.restore()
        patch = patches.get(timeout=PATIENCE_S)
        assert patch == {"a": 2, "b": None, "c": {"d": 1}, "$version": 4}


def test_who_is_not_in_the_scope_or_has_another_key_is_refused(
    instance: Instance, edge: EdgeDevice
) -> None:
    from azure.iot.device.exceptions import CredentialError

    edge.desire(up=UP)
    edge.module("a")
    edge.start()
    edge.wait_applied()
    stranger = unique("stranger")
    key, _ = instance.hub().create_device(stranger)
    login = (
        f"HostName={edge.hub.host};DeviceId={stranger};SharedAccessKey={key};"
        f"GatewayHostName={edge.hostname}"
    )
    with leaf(edge, login) as device, pytest.raises(CredentialError):
        device.connect()
    wrong = edge.module("a").replace(edge.module_key("a"), key)
    client = IoTHubModuleClient.create_from_connection_string(
        wrong, server_verification_cert=edge.trust
    )
    with pytest.raises(CredentialError):
        client.connect()
    client.shutdown()
    # One that came later is asked for.
    late = edge.leaf(unique("late"))
    with leaf(edge, late) as device:
        device.connect()


def test_a_configuration_that_cannot_be_read_is_reported_and_the_last_one_kept(
    instance: Instance, edge: EdgeDevice
) -> None:
    edge.desire(up=UP)
    edge.module("a")
    edge.start()
    edge.wait_applied()
    edge.configure(
        routes={"up": "FROM nowhere"}, storeAndForwardConfiguration={"timeToLiveSecs": 1}
    )
    wait_for(lambda: edge.reported["lastDesiredStatus"]["code"] == 400, PATIENCE_S)
    description = edge.reported["lastDesiredStatus"]["description"]
    assert description.startswith("Error while parsing desired properties - Error parsing route up")
    with module(edge, "a") as a:
        a.send_message_to_output(Message("still"), "out")
    (event,) = events_of(instance, edge.device_id, 1)
    assert event["body"] == "still"
