"""Direct methods between the official clients of devices, modules and services."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.hub import DigitalTwinClient, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod
from msrest.exceptions import HttpOperationError

from support.device import unique
from support.node import NodeScript, run_script, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

PATIENCE_S = 30.0


@contextmanager
def answering(client: Any) -> Iterator[queue.Queue[Any]]:
    """Answer every method with what it was called with; yield the requests."""
    seen: queue.Queue[Any] = queue.Queue()

    def handle(request: Any) -> None:
        seen.put(request)
        payload = {"name": request.name, "payload": request.payload}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 207, payload)
        )

    try:
        # Subscribes, and returns when it has.
        client.on_method_request_received = handle
        yield seen
    finally:
        client.shutdown()


def connection(instance: Instance, device_id: str, key: str, module_id: str = "") -> str:
    text = f"HostName={instance.place.hubs[0]};DeviceId={device_id};SharedAccessKey={key}"
    return text + (f";ModuleId={module_id}" if module_id else "")


def python_client(
    instance: Instance, device_id: str, key: str, module_id: str = "", **options: Any
) -> Any:
    kind = IoTHubModuleClient if module_id else IoTHubDeviceClient
    return kind.create_from_connection_string(
        connection(instance, device_id, key, module_id),
        server_verification_cert=instance.ca,
        **options,
    )


def manager(instance: Instance) -> IoTHubRegistryManager:
    host = instance.place.hubs[0]
    return IoTHubRegistryManager.from_connection_string(instance.hub_connection_string(host))


def number(caught: pytest.ExceptionInfo[HttpOperationError]) -> int:
    found: int = json.loads(caught.value.response.json()["Message"])["errorCode"]
    return found


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websockets"])
def test_python_service_calls_python_devices_and_modules(
    instance: Instance, *, websockets: bool
) -> None:
    device_id, service = unique("method"), manager(instance)
    key, _ = instance.hub().create_device(device_id)
    module_key, _ = instance.hub().create_module(device_id, "m1")
    call = CloudToDeviceMethod(
        method_name="set.rate",
        payload={"rate": 5, "text": "ü"},
        response_timeout_in_seconds=30,
        connect_timeout_in_seconds=5,
    )
    client = python_client(instance, device_id, key, websockets=websockets)
    with answering(client) as seen:
        result = service.invoke_device_method(device_id, call)
        assert (result.status, result.payload) == (
            207,
            {"name": "set.rate", "payload": {"rate": 5, "text": "ü"}},
        )
        assert seen.get(timeout=PATIENCE_S).name == "set.rate"
        # Nothing is what the Python service sends as an empty text.
        result = service.invoke_device_method(device_id, CloudToDeviceMethod(method_name="m"))
        assert result.payload["name"] == "m"
    module = python_client(instance, device_id, module_key, "m1", websockets=websockets)
    with answering(module):
        result = service.invoke_device_module_method(device_id, "m1", call)
        assert (result.status, result.payload["name"]) == (207, "set.rate")
    with pytest.raises(HttpOperationError) as caught:
        service.invoke_device_method(device_id, CloudToDeviceMethod(method_name="m"))
    assert number(caught) == 404103
    with pytest.raises(HttpOperationError) as caught:
        service.invoke_device_method(unique("nobody"), CloudToDeviceMethod(method_name="m"))
    assert number(caught) == 404001


def test_a_call_waits_for_the_device(instance: Instance) -> None:
    device_id, service = unique("late"), manager(instance)
    key, _ = instance.hub().create_device(device_id)
    call = CloudToDeviceMethod(method_name="m", connect_timeout_in_seconds=60)
    statuses: queue.Queue[int] = queue.Queue()

    def invoke() -> None:
        statuses.put(service.invoke_device_method(device_id, call).status)

    caller = threading.Thread(target=invoke)
    caller.start()
    with answering(python_client(instance, device_id, key)):
        assert statuses.get(timeout=60) == 207
    caller.join()


def test_an_edge_module_calls_another(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, device_id = instance.hub(), unique("edge")
    key, _ = hub.create_device(device_id, capabilities={"iotEdge": True})
    caller_key, _ = hub.create_module(device_id, "caller")
    module_key, _ = hub.create_module(device_id, "called")
    host = instance.place.hubs[0]
    text = connection(instance, device_id, caller_key, "caller")
    monkeypatch.setenv("EdgeHubConnectionString", f"{text};GatewayHostName={host}")
    monkeypatch.setenv("EdgeModuleCACertificateFile", str(instance.ca_file))
    caller = IoTHubModuleClient.create_from_edge_environment()
    try:
        caller.connect()
        params = {"methodName": "m", "payload": {"n": 1}, "responseTimeoutInSeconds": 10}
        with answering(python_client(instance, device_id, module_key, "called")):
            result = caller.invoke_method(params, device_id, "called")
        assert result == {"status": 207, "payload": {"name": "m", "payload": {"n": 1}}}
        with answering(python_client(instance, device_id, key)):
            result = caller.invoke_method(params, device_id)
        assert result["status"] == 207
    finally:
        caller.shutdown()


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def test_node_service_calls_node_devices_and_modules(instance: Instance, transport: str) -> None:
    device_id, host_id = unique("node-method"), unique("node-host")
    key, _ = instance.hub().create_device(device_id)
    instance.hub().create_device(host_id)
    module_key, _ = instance.hub().create_module(host_id, "m1")
    answerers = {
        "transport": transport,
        "device": connection(instance, device_id, key),
        "module": connection(instance, host_id, module_key, "m1"),
    }
    callers = {
        "connectionString": instance.hub_connection_string(instance.place.hubs[0]),
        "device": device_id,
        "module": [host_id, "m1"],
        "nobody": unique("nobody"),
    }
    with NodeScript(instance, "methods_device.js", answerers) as script:
        script.wait_for("ready")
        script.wait_for("ready")
        results = run_script(instance, "methods.js", callers)
        assert value_of(script.results(), "device") == [{"rate": 5}, None]
    for scenario in ("device", "module"):
        done = value_of(results, scenario)
        assert done["answer"] == {"status": 207, "payload": {"name": "setRate", "rate": 5}}
        assert done["empty"] == {"status": 200, "payload": None}
    gone = value_of(results, "gone")
    assert gone["offline"]["statusCode"] == 404
    assert gone["silent"]["statusCode"] == 504


def test_python_digital_twins(instance: Instance) -> None:
    device_id = unique("dt")
    key, _ = instance.hub().create_device(device_id)
    model_id = "dtmi:com:example:TemperatureController;2"
    host = instance.place.hubs[0]
    twins = DigitalTwinClient.from_connection_string(instance.hub_connection_string(host))
    client = python_client(instance, device_id, key, product_info=model_id)
    patches: queue.Queue[Any] = queue.Queue()
    with answering(client):
        client.on_twin_desired_properties_patch_received = patches.put
        client.patch_twin_reported_properties(
            {"serial": "x1", "thermostat1": {"__t": "c", "max": 25.3}}
        )
        patch = [{"op": "add", "path": "/thermostat1/target", "value": 21.5}]
        twins.update_digital_twin(device_id, patch)
        assert patches.get(timeout=PATIENCE_S)["thermostat1"] == {"__t": "c", "target": 21.5}
        found = twins.get_digital_twin(device_id)
        assert found["$metadata"]["$model"] == model_id
        assert (found["$dtId"], found["serial"]) == (device_id, "x1")
        assert found["thermostat1"]["max"] == 25.3
        assert found["thermostat1"]["$metadata"]["target"]["desiredValue"] == 21.5
        answer = twins.invoke_command(device_id, "reboot", {"delay": 1}, 5, 10)
        assert answer == {"name": "reboot", "payload": {"delay": 1}}
        answer = twins.invoke_component_command(device_id, "thermostat1", "getMax", "since")
        assert answer == {"name": "thermostat1*getMax", "payload": "since"}
