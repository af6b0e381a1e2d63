"""Modules and leaf devices with npm's `azure-iot-device`, through the edge hub of their device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.events import events_of, wait_for
from support.node import NodeScript, value_of
from support.secrets import new_key

if TYPE_CHECKING:
    from support.edge_hub import EdgeDevice
    from support.instance import Instance

every_transport = pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])


@every_transport
def test_devices_and_modules_talk(instance: Instance, edge: EdgeDevice, transport: str) -> None:
    hub = instance.hub()
    edge.desire(
        up="FROM /messages/* INTO $upstream",
        across="FROM /messages/modules/m1/outputs/out1 WHERE $body.n = 1 "
        'INTO BrokeredEndpoint("/modules/b/inputs/in1")',
    )
    leaf_id = unique("node-leaf")
    login, module = edge.leaf(leaf_id), edge.module("m1")
    paths = (leaf_id, f"{edge.device_id}/modules/m1")
    for path in paths:
        desired(instance, path, {"a": 1, "b": {"c": 2}})
    edge.module("b")
    edge.start()
    edge.wait_applied()
    leaf_key = dict(part.split("=", 1) for part in login.split(";"))["SharedAccessKey"]
    context = {
        "device": {"connectionString": login, "transport": transport},
        "module": {"connectionString": module, "transport": transport},
        "wrongKey": {
            "connectionString": login.replace(leaf_key, new_key()),
            "transport": transport,
        },
    }
    listening = {"connectionString": edge.module("b"), "transport": transport, "count": 1}
    with NodeScript(edge, "edge.js", listening) as other:
        other.wait_for("ready")
        with NodeScript(edge, "device.js", context) as script:
            for _ in paths:
                script.wait_for("ready")
            for path in paths:
                desired(instance, path, {"b": {"c": None}, "last": True})
            results = script.results()
        assert other.wait_for("seen") == [{"input": "in1", "body": '{"n":1}'}]
        call = {"methodName": "turn", "payload": 1, "connectTimeoutInSeconds": 30}
        result = hub.must("POST", f"/twins/{edge.device_id}/modules/b/methods", call)
        assert result == {"status": 201, "payload": {"turned": 1}}

    for scenario, path in zip(("device", "module"), paths, strict=True):
        talk = value_of(results, scenario)
        assert talk["before"]["desired"] == {"a": 1, "b": {"c": 2}, "$version": 2}
        assert talk["seen"][-1] == {"b": {"c": None}, "last": True, "$version": 3}
        wait_for(lambda path=path: reported(instance, path).get("battery") == 80, 60)
        assert "gone" not in reported(instance, path)
    (event,) = events_of(instance, leaf_id, 1)
    assert event["body"] == {"t": 21.5}
    assert event["properties"] == {"al ert": "tr/ue&x=1"}
    (event,) = events_of(instance, edge.device_id, 1)
    assert event["moduleId"] == "m1"
    assert event["systemProperties"]["iothub-outputname"] == "out1"
    assert event["systemProperties"]["dt-subject"] == "comp1"
    assert value_of(results, "wrongKey")["name"] == "UnauthorizedError"


def desired(instance: Instance, path: str, change: dict[str, Any]) -> None:
    instance.hub().must("PATCH", f"/twins/{path}", {"properties": {"desired": change}})


def reported(instance: Instance, path: str) -> dict[str, Any]:
    return dict(instance.hub().must("GET", f"/twins/{path}")["properties"]["reported"])
