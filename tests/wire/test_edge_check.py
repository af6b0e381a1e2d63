"""`iotedge check` on a device that is as it should be, and on ones that are broken on purpose."""

from __future__ import annotations

import contextlib
import json
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.edge.check.causes import Cause
from muster.edge.hub.database import FILE_NAME
from support.certificates import ClientCertificate, self_signed
from support.device import unique
from support.edge_checks import check, passes, reported
from support.edge_daemon import EdgeDaemon, deploy
from support.instance import Instance
from support.secrets import derive, new_key

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def daemon(shared_instance: Instance) -> Iterator[EdgeDaemon]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with EdgeDaemon(shared_instance) as made:
        yield made


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


def _running(daemon: EdgeDaemon, instance: Instance) -> tuple[str, str]:
    """Start the daemon and wait for its edge hub; return the device's ID and key."""
    device_id, key = _enroll(instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    daemon.wait(lambda: passes(check(daemon), "edge-hub"), "the edge hub's ports")
    return device_id, key


@contextlib.contextmanager
def _other_file(daemon: EdgeDaemon, old: str, new: str) -> Iterator[str]:
    """Yield a configuration that says something else than the daemon's."""
    text = daemon.config.read_text()
    assert old in text
    path = daemon.directory / "other.toml"
    path.write_text(text.replace(old, new))
    path.chmod(0o600)
    yield str(path)
    path.unlink()


def test_a_device_that_is_as_it_should_be(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _running(daemon, shared_instance)
    checks = check(daemon)
    for name in (
        *("aziot-edged-config-well-formed", "connect-management-uri", "config-up-to-date"),
        *("aziot-edge-version", "trust-bundle", "host-connect-dps-endpoint"),
        *("host-connect-iothub-https", "host-connect-iothub-mqtt", "host-connect-iothub-amqp"),
        *("host-local-time", "dps-registration", "iothub-authentication", "edge-hub"),
        "proxy-settings",
    ):
        assert passes(checks, name), checks[name]
    # No container engine in this test, and a name that is an address.
    assert checks["container-engine-uri"]["result"] == "warning"
    text = daemon.iotedge("check", "-c", str(daemon.config), "--dont-run", "storage").stdout
    assert text.startswith("Configuration checks\n--------------------\n√ the configuration is")
    assert "\n√ the hub accepts the device - OK\n" in text
    assert "\n‼ the container engine answers - Warning\n    there is no container engine" in text
    assert "check(s) succeeded.\n" in text
    assert "were skipped due to errors from other checks. Re-run with --verbose for more" in text
    assert key not in text
    wordy = daemon.iotedge("check", "-c", str(daemon.config), "--verbose").stdout
    assert (
        "\n‼ the edge hub can be reached from the network of modules - Skipped\n    nothing is to "
        "be learnt here before container-engine-uri passes\n        caused by: earlier-check: "
    ) in wordy
    assert "Re-run" not in wordy
    strict = daemon.iotedge("check", "-c", str(daemon.config), "--warnings-as-errors")
    assert strict.returncode == 1
    _disabled(shared_instance, device_id)
    details = reported(check(daemon), "iothub-authentication", Cause.HUB_REFUSES)
    assert f"does not let {device_id} in: HTTP 40" in details
    assert "muster device show" in details


def _disabled(instance: Instance, device_id: str) -> None:
    hub = instance.hub()
    identity = hub.must("GET", f"/devices/{device_id}")
    identity["status"] = "disabled"
    hub.must("PUT", f"/devices/{device_id}", identity, if_match="*")


def test_what_does_not_fit_a_running_daemon(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    _running(daemon, shared_instance)
    checks = check(daemon, "--expected-aziot-edged-version", "9.9.9")
    details = reported(checks, "aziot-edge-version", Cause.VERSION_DIFFERS, "warning")
    assert ", expected is 9.9.9" in details
    with _other_file(daemon, f'address = "{daemon.address}"', 'address = "127.99.99.98"') as path:
        checks = check(daemon, "-c", path)
        details = reported(checks, "config-up-to-date", Cause.CONFIGURATION_ELSEWHERE, "warning")
        assert f"the daemon runs with {daemon.config.resolve()}, and {path} says" in details
        details = reported(checks, "edge-hub", Cause.EDGE_HUB_CLOSED)
        assert "the edge hub is not reached on 127.99.99.98:8883: Connection refused" in details
    with _other_file(daemon, f'hostname = "{daemon.address}"', 'hostname = "other"') as path:
        details = reported(check(daemon, "-c", path), "edge-hub", Cause.EDGE_HUB_UNTRUSTED)
        assert (
            f"the certificate on {daemon.address}:8883 is not accepted as the edge hub's: "
            in details
        )
    text = daemon.config.read_text()
    daemon.config.write_text(f"{text}\n# changed\n")
    details = reported(
        check(daemon), "config-up-to-date", Cause.CONFIGURATION_NOT_APPLIED, "warning"
    )
    assert f"{daemon.config} was changed after the daemon had read it" in details
    (daemon.directory / "workload.sock").unlink()
    details = reported(check(daemon), "edge-hub", Cause.WORKLOAD_API_AWAY)
    assert "gives modules no trust bundle: [Errno 2] No such file or directory" in details


def test_heads_that_a_deployment_closes_are_not_missed(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, _ = _running(daemon, shared_instance)
    deploy(shared_instance, device_id, {}, hub_env={"amqpSettings__enabled": "false"})

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((daemon.address, 5671)) != 0

    daemon.wait(closed, "the AMQP head is closed")
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub, once more")
    assert passes(check(daemon), "edge-hub")


def test_an_edge_hub_that_cannot_start(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.home.mkdir()
    (daemon.home / "hub").mkdir(mode=0o700)
    (daemon.home / "hub" / FILE_NAME).mkdir()  # where its database is to be
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "failed", "the failure")
    details = reported(check(daemon), "edge-hub", Cause.EDGE_HUB_FAILED)
    assert "the edge hub is failed: " in details


def test_another_program_has_a_port(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    with socket.create_server((daemon.address, 8883)):
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
        details = reported(check(daemon), "edge-hub", Cause.EDGE_HUB_FOREIGN)
    assert f"what listens on {daemon.address}:8883 does not speak TLS, so it is not the" in details
    assert "ss -ltnp 'sport = :8883'" in details


def test_keys_that_are_not_the_device_s(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, _ = _enroll(shared_instance)
    daemon.configure(device_id, new_key())
    daemon.start()
    checks = check(daemon)
    details = reported(checks, "dps-registration", Cause.PROOF_REFUSED)
    assert f"does not accept the key of {device_id}: " in details
    assert f"muster registration explain {device_id}" in details
    assert passes(checks, "host-connect-dps-endpoint")
    reported(checks, "edge-hub", Cause.EDGE_HUB_ABSENT, "skipped")
    # Without an assignment there is no hub to look at.
    for name in ("host-connect-iothub-https", "iothub-authentication"):
        details = reported(checks, name, Cause.NOT_ASSIGNED, "skipped")
        assert "not assigned to a hub yet" in details
    hub = shared_instance.place.hubs[0]
    assert passes(check(daemon, "--iothub-hostname", hub), "host-connect-iothub-mqtt")


def test_a_device_with_a_certificate(
    daemon: EdgeDaemon, shared_instance: Instance, tmp_path: Path
) -> None:
    device_id = unique("edge-x509")
    hub = shared_instance.place.hubs[0]
    mine, other = (ClientCertificate.make(tmp_path, device_id) for _ in range(2))
    body = {"deviceId": device_id, "authentication": self_signed(mine.sha256)}
    shared_instance.hub(hub).must(
        "PUT", f"/devices/{device_id}", {**body, "capabilities": {"iotEdge": True}}
    )
    for certificate in (mine, other):
        daemon.config.write_text(
            f'homedir = "{daemon.home}"\nhostname = "{daemon.hostname}"\n'
            f'trust_bundle_cert = "file://{shared_instance.ca_file}"\n'
            f'[provisioning]\nsource = "manual"\niothub_hostname = "{hub}"\n'
            f'device_id = "{device_id}"\n[provisioning.authentication]\nmethod = "x509"\n'
            f'identity_cert = "file://{certificate.file}"\n'
            f'identity_pk = "file://{certificate.file}"\n'
        )
        checks = check(daemon)
        # It ended long ago, which is not what the hub looks at.
        reported(checks, "identity-certificate-expiry", Cause.CERTIFICATE_ENDED)
        if certificate is mine:
            assert passes(checks, "iothub-authentication")
        else:
            details = reported(checks, "iothub-authentication", Cause.HUB_REFUSES)
            assert f"does not let {device_id} in: HTTP 401" in details


def test_a_daemon_that_is_stopped(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    _running(daemon, shared_instance)
    daemon.end()
    checks = check(daemon)
    details = reported(checks, "connect-management-uri", Cause.DAEMON_AWAY)
    assert "Fix: sudo iotedge system restart; iotedge system logs says why it ended" in details
    # Everything else is looked at as far as it can be, and is not the daemon's fault.
    assert [name for name, each in checks.items() if each["result"] == "error"] == [
        "connect-management-uri"
    ]
    assert passes(checks, "iothub-authentication")
    reported(checks, "edge-hub", Cause.EARLIER_CHECK, "skipped")


def test_a_device_that_never_registered(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    group = unique("group")
    primary, _ = shared_instance.dps.enroll_group(group)
    device_id = unique("edge")
    daemon.configure(device_id, derive(primary, device_id))
    details = reported(check(daemon), "dps-registration", Cause.NOT_REGISTERED, "warning")
    assert f"{device_id} is accepted but has not registered yet" in details


def test_an_unknown_id_scope(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(shared_instance.id_scope, "0ne00NOTHING"))
    found = check(daemon)["dps-registration"]
    assert found["result"] == "error"
    assert "see that ID scope and registration ID are right" in found["details"][1]


def test_ports_that_are_blocked(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    # A name whose ports nobody listens on stands for a firewall that refuses them.
    checks = check(daemon, "--iothub-hostname", "127.99.99.99")
    details = reported(checks, "host-connect-iothub-mqtt", Cause.PORT_REFUSED, "warning")
    assert "TCP: 127.99.99.99:8883 refuses the connection (the device uses MQTT over Web" in details
    details = reported(checks, "host-connect-iothub-amqp", Cause.PORT_REFUSED, "warning")
    assert "TCP: 127.99.99.99:5671 refuses the connection (only modules that" in details
    reported(checks, "host-connect-iothub-https", Cause.PORT_REFUSED)


def test_the_list_of_checks(daemon: EdgeDaemon) -> None:
    listed = daemon.iotedge("check-list").stdout.splitlines()
    assert listed[0].split() == ["CATEGORY", "ID", "DESCRIPTION"]
    (row,) = [line for line in listed if "host-connect-dps-endpoint" in line]
    begins = [listed[0].index(word) for word in ("CATEGORY", "ID", "DESCRIPTION")]
    assert row[begins[0] :].startswith("Connectivity checks ")
    assert row[begins[1] :].startswith("host-connect-dps-endpoint ")
    assert row[begins[2] :] == "the provisioning service can be reached"


def test_checks_are_left_out_as_the_official_command_takes_it(
    daemon: EdgeDaemon, shared_instance: Instance
) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    left_out = ("dps-registration", "storage", "host-local-time", "host-connect-dps-endpoint")
    for given in (
        ("--dont-run", *left_out),
        ("--dont-run", " ".join(left_out)),
        tuple(word for each in left_out for word in ("--dont-run", each)),
    ):
        checks = check(daemon, *given)
        assert {checks[name]["result"] for name in left_out} == {"ignored"}
    command = ("check", "-c", str(daemon.config), "-o", "json")
    done = daemon.iotedge(*command, "--dont-run", "nothing", "tpmd-running", "--verbose")
    assert done.stderr == "Note: there is no check nothing: see iotedge check-list\n"
    done = daemon.iotedge(*command, "--expected-aziot-version", "1.5", "--aziot-edged", "/x")
    assert done.stderr.count("has no effect") == 2
    assert daemon.iotedge(*command, "storage").returncode == 2


def test_a_configuration_that_is_not_there(daemon: EdgeDaemon) -> None:
    done = daemon.iotedge("check", "-c", "/nonexistent/config.toml", "-o", "json")
    assert done.returncode == 1
    found = json.loads(done.stdout)["checks"]
    reported(found, "aziot-edged-config-well-formed", Cause.CONFIGURATION_MISSING, "fatal")
    assert {each["result"] for each in found.values()} == {"fatal", "skipped"}


def test_a_support_bundle(daemon: EdgeDaemon, shared_instance: Instance) -> None:
    device_id, key = _enroll(shared_instance)
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    path = daemon.directory / "bundle.zip"
    done = daemon.iotedge("support-bundle", "-o", str(path), "--since", "1 hour")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(f"Created support bundle at {Path(path).resolve()}\n")
    with zipfile.ZipFile(path) as archive:
        assert {"check.json", "modules.json", "logs/edgeAgent_log.txt"} <= set(archive.namelist())
        assert b"provisioned" in archive.read("logs/edgeAgent_log.txt")
        assert all(key.encode() not in archive.read(name) for name in archive.namelist())
        assert all(each.date_time[0] > 1980 for each in archive.infolist())


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
    assert done.stdout == "Successfully reprovisioned with IoT Hub.\n"
    second = shared_instance.place.hubs[1]
    daemon.wait(lambda: f"hub={second}" in _plain(daemon.log_text()), "the move")
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the edge hub")
    modules = shared_instance.hub(second).must("GET", f"/devices/{device_id}/modules")
    assert {module["moduleId"] for module in modules} >= {"$edgeAgent", "$edgeHub"}


def _plain(text: str) -> str:
    return text.replace('": "', "=").replace('"', "")
