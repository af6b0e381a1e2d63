"""How the whole edge runtime bears what services and people do to its identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process
from support.service import segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def daemon(shared_instance: Instance) -> Iterator[EdgeDaemon]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with EdgeDaemon(shared_instance) as made:
        yield made


def change(instance: Instance, registration_id: str, **fields: Any) -> None:
    """Change an enrollment."""
    path = f"/enrollments/{segment(registration_id)}"
    entry = instance.dps.must("GET", path)
    instance.dps.must("PUT", path, {**entry, **fields}, if_match="*")


def enroll(instance: Instance, **fields: Any) -> tuple[str, str]:
    device_id = unique("edge-life")
    hubs = [instance.place.hubs[0]]
    options = {"capabilities": {"iotEdge": True}, "iotHubs": hubs, "allocationPolicy": "hashed"}
    key, _ = instance.dps.enroll(device_id, **{**options, **fields})
    return device_id, key


def connected(instance: Instance, device_id: str, hub: str | None = None) -> bool:
    """Tell whether a hub has the agent of a device connected."""
    path = f"/devices/{device_id}/modules/$edgeAgent"
    reply = instance.hub(hub).call("GET", path)
    return reply.status == 200 and reply.json["connectionState"] == "Connected"


def test_a_rejected_device_comes_up_when_its_enrollment_is_enabled(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = enroll(shared_instance, provisioningStatus="disabled")
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: "not provisioned" in daemon.log_text(), "the rejection")
    change(shared_instance, device_id, provisioningStatus="enabled")
    daemon.wait(lambda: connected(shared_instance, device_id), "the agent at the hub")


def test_another_registration_id_in_the_file_is_all_it_takes(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    for device_id, key in (enroll(shared_instance), enroll(shared_instance)):
        daemon.configure(device_id, key)
        daemon.start()
        daemon.wait(lambda device_id=device_id: connected(shared_instance, device_id), "the agent")
        assert daemon.end() == 0


def test_a_device_that_is_moved_follows_with_its_modules(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: connected(shared_instance, device_id), "the agent at the first hub")
    deploy(shared_instance, device_id, {"idle": process("sleep", "3600")})
    daemon.wait(lambda: daemon.status("idle") == "running", "the module")
    there = move(shared_instance, device_id)
    assert daemon.end() == 0
    daemon.start("--reprovision")
    daemon.wait(lambda: connected(shared_instance, device_id, there), "the agent at the second")
    daemon.wait(lambda: daemon.status("idle") == "running", "the module at the second hub")


def test_a_device_that_its_hub_has_lost_asks_where_it_belongs(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: connected(shared_instance, device_id), "the agent at the first hub")
    there = move(shared_instance, device_id)
    shared_instance.hub().must("DELETE", f"/devices/{device_id}", if_match="*")
    daemon.wait(lambda: connected(shared_instance, device_id, there), "the agent at the second")


def move(instance: Instance, device_id: str) -> str:
    """Have a device belong to the second hub, with all it has."""
    there = instance.place.hubs[1]
    policy = {"updateHubAssignment": True, "migrateDeviceData": True}
    change(instance, device_id, iotHubs=[there], reprovisionPolicy=policy)
    return there


def test_a_device_that_is_disabled_keeps_its_modules_and_comes_back(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: connected(shared_instance, device_id), "the agent")
    deploy(shared_instance, device_id, {"idle": process("sleep", "3600")})
    daemon.wait(lambda: daemon.status("idle") == "running", "the module")
    hub, path = shared_instance.hub(), f"/devices/{device_id}"
    device = hub.must("GET", path)
    hub.must("PUT", path, {**device, "status": "disabled"}, if_match="*")
    daemon.wait(lambda: "the hub refuses this device" in daemon.log_text(), "the refusal")
    assert daemon.status("idle") == "running"
    hub.must("PUT", path, {**hub.must("GET", path), "status": "enabled"}, if_match="*")
    daemon.wait(lambda: connected(shared_instance, device_id), "the agent again")
    assert daemon.status("idle") == "running"
    assert "Traceback" not in daemon.log_text()
