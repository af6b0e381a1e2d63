"""`iotedge check` on a device that is as it should be, and on ones that are not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon
from support.instance import Instance
from support.secrets import derive, new_key

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def daemon(shared_instance: Instance) -> Iterator[EdgeDaemon]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with EdgeDaemon(shared_instance) as made:
        yield made


def _check(daemon: EdgeDaemon, *options: str) -> dict[str, Any]:
    done = daemon.iotedge("check", "-c", str(daemon.config), "-o", "json", *options)
    checks: dict[str, Any] = json.loads(done.stdout)["checks"]
    bad = [each for each in checks.values() if each["result"] in ("error", "fatal")]
    assert done.returncode == (1 if bad else 0)
    return checks


def _result(checks: dict[str, Any], name: str) -> tuple[str, str]:
    found = checks[name]
    return found["result"], " | ".join(found["details"])


def _enroll(instance: Instance, **fields: Any) -> tuple[str, str]:
    device_id = unique("edge")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
        **fields,
    )
    return device_id, key


def test_a_device_that_is_as_it_should_be(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    daemon.wait(lambda: _check(daemon)["edge-hub"]["result"] == "ok", "the edge hub's ports")
    checks = _check(daemon)
    for name in (
        *("aziot-edged-config-well-formed", "connect-management-uri", "config-up-to-date"),
        *("aziot-edge-version", "trust-bundle", "host-connect-dps-endpoint"),
        *("host-connect-iothub-https", "host-connect-iothub-mqtt", "host-local-time"),
        *("dps-registration", "iothub-authentication", "edge-hub", "proxy-settings"),
    ):
        assert _result(checks, name) == ("ok", ""), name
    # No container engine in this test, and a name that is an address.
    assert checks["container-engine-uri"]["result"] == "warning"
    text = daemon.iotedge("check", "-c", str(daemon.config), "--dont-run", "storage").stdout
    assert text.startswith("Configuration checks\n--------------------\n√ the configuration is")
    assert "\n√ the hub accepts the device - OK\n" in text
    assert "\n‼ the container engine answers - Warning\n    there is no container engine" in text
    assert "check(s) succeeded.\n" in text
    assert key not in text
    strict = daemon.iotedge("check", "-c", str(daemon.config), "--warnings-as-errors")
    assert strict.returncode == 1
    _disabled(shared_instance, device_id)
    result, details = _result(_check(daemon), "iothub-authentication")
    assert result == "error"
    assert f"does not let {device_id} in: HTTP 40" in details
    assert "muster device show" in details


def _disabled(instance: Instance, device_id: str) -> None:
    hub = instance.hub()
    identity = hub.must("GET", f"/devices/{device_id}")
    identity["status"] = "disabled"
    hub.must("PUT", f"/devices/{device_id}", identity, if_match="*")


def test_keys_that_are_not_the_device_s(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, _ = _enroll(shared_instance)
    daemon.configure(device_id, new_key())
    checks = _check(daemon)
    result, details = _result(checks, "dps-registration")
    assert result == "error"
    assert f"does not accept the key of {device_id}: " in details
    assert f"muster registration explain {device_id}" in details
    assert _result(checks, "host-connect-dps-endpoint") == ("ok", "")
    # Without an assignment there is no hub to look at.
    assert _result(checks, "host-connect-iothub-https")[0] == "skipped"
    assert "not assigned to a hub yet" in _result(checks, "iothub-authentication")[1]
    hub = shared_instance.place.hubs[0]
    assert _result(_check(daemon, "--iothub-hostname", hub), "host-connect-iothub-mqtt")[0] == "ok"


def test_a_device_that_never_registered(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    group = unique("group")
    primary, _ = shared_instance.dps.enroll_group(group)
    device_id = unique("edge")
    daemon.configure(device_id, derive(primary, device_id))
    result, details = _result(_check(daemon), "dps-registration")
    assert result == "warning"
    assert f"{device_id} is accepted but has not registered yet" in details


def test_an_unknown_id_scope(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(shared_instance.id_scope, "0ne00NOTHING"))
    result, details = _result(_check(daemon), "dps-registration")
    assert result == "error"
    assert "see that ID scope and registration ID are right" in details


def test_mqtt_that_is_blocked(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    # A name whose MQTT port nobody listens on stands for a firewall that refuses it.
    checks = _check(daemon, "--iothub-hostname", "127.99.99.99")
    result, details = _result(checks, "host-connect-iothub-mqtt")
    assert result == "warning"
    assert "TCP: 127.99.99.99:8883 refuses the connection (the device uses MQTT over Web" in details
    assert _result(checks, "host-connect-iothub-https")[0] == "error"


def test_the_list_of_checks(daemon: EdgeDaemon) -> None:
    listed = daemon.iotedge("check-list").stdout
    assert "    host-connect-dps-endpoint         the provisioning service can be reached" in listed


def test_a_support_bundle(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    path = daemon.directory / "bundle.zip"
    done = daemon.iotedge("support-bundle", "-o", str(path), "--since", "1 hour")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(path) as archive:
        assert {"check.json", "modules.json", "logs/edgeAgent_log.txt"} <= set(archive.namelist())
        assert b"provisioned" in archive.read("logs/edgeAgent_log.txt")
        assert all(key.encode() not in archive.read(name) for name in archive.namelist())


def test_reprovisioning(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    # The enrollment moves the device to the other hub.
    enrollment = shared_instance.dps.must("GET", f"/enrollments/{device_id}")
    enrollment["iotHubs"] = [shared_instance.place.hubs[1]]
    enrollment["reprovisionPolicy"] = {"updateHubAssignment": True, "migrateDeviceData": True}
    shared_instance.dps.must("PUT", f"/enrollments/{device_id}", enrollment, if_match="*")
    done = daemon.iotedge("system", "reprovision")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Reprovisioned: ")
    second = shared_instance.place.hubs[1]
    daemon.wait(lambda: f"hub={second}" in _plain(daemon.log_text()), "the move")
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub")
    modules = shared_instance.hub(second).must("GET", f"/devices/{device_id}/modules")
    assert {module["moduleId"] for module in modules} >= {"$edgeAgent", "$edgeHub"}


def _plain(text: str) -> str:
    return text.replace('": "', "=").replace('"', "")
