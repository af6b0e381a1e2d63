"""Devices and modules on the command line: new keys, parents."""

from __future__ import annotations

from typing import Any

import pytest

from unit.cli.cli_service import CliService, hub_refusal
from unit.cli.conftest import Run, parsed

SCOPE = "ms-azure-iot-edge://gateway-1-638"


def identity(device_id: str, *, edge: bool = False, kind: str = "sas", **more: Any) -> Any:
    return {
        "deviceId": device_id,
        "etag": "MQ==",
        "status": "enabled",
        "authentication": {"type": kind},
        "capabilities": {"iotEdge": edge},
        **more,
    }


@pytest.fixture(autouse=True)
def _gateway(service: CliService) -> None:
    gateway = identity("gateway-1", edge=True, deviceScope=SCOPE, parentScopes=[])
    service.on("GET", "/devices/gateway-1", gateway)
    service.on("GET", "/devices/leaf", identity("leaf", parentScopes=[SCOPE]))


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("/devices/leaf", {"id": "leaf"}),
        ("/devices/leaf/modules/m1", {"id": "leaf", "moduleId": "m1"}),
    ],
    ids=["device", "module"],
)
def test_new_keys(place: str, entry: dict[str, str], run: Run, service: CliService) -> None:
    noun = "module" if "moduleId" in entry else "device"
    said = f"muster {noun} connection-string {' '.join(entry.values())}"
    done = {"rotatedKeys": [entry], "errors": []}
    service.on("GET", place, identity("leaf"))
    service.on("POST", "/devices/keys/regenerate", done)
    command = (noun, "renew-key", *entry.values())
    assert said in run(*command, "--key", "secondary").stderr
    assert service.calls[-1].body == {"policyKey": "secondaryKey", "devices": [entry]}
    assert parsed(run(*command, "--key", "both", "--json")) == done
    assert service.calls[-1].body["policyKey"] == "both"
    run(*command, code=2)


def test_no_new_keys(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/leaf", identity("leaf", kind="selfSigned"))
    failed = run("device", "renew-key", "leaf", "--key", "primary", code=1)
    assert "proves itself with a certificate" in failed.stderr
    service.on("GET", "/devices/none", hub_refusal(404, "DeviceNotFound", "No such device."))
    failed = run("device", "renew-key", "none", "--key", "primary", code=1)
    assert "Next: muster device list" in failed.stderr


def test_children(run: Run, service: CliService) -> None:
    for device_id in ("leaf", "gateway-1", "new"):
        service.on("PUT", f"/devices/{device_id}", identity(device_id))
    run("device", "create", "new", "--parent", "gateway-1")
    assert service.calls[-1].body["deviceScope"] == SCOPE
    run("device", "create", "new", "--edge", "--parent", "gateway-1")
    assert service.calls[-1].body["parentScopes"] == [SCOPE]
    run("device", "update", "leaf", "--parent", "gateway-1")
    assert service.calls[-1].body["deviceScope"] == SCOPE
    run("device", "update", "leaf", "--parent", "")
    assert service.calls[-1].body["deviceScope"] == ""
    assert "parentScopes" not in service.calls[-1].body
    run("device", "update", "gateway-1", "--parent", "")
    assert service.calls[-1].body["parentScopes"] == []
    assert service.calls[-1].body["deviceScope"] == SCOPE
    failed = run("device", "update", "gateway-1", "--parent", "leaf", code=1)
    assert "Next: muster device update leaf --edge" in failed.stderr
