"""Messages about the provisioning service and the hub that no service of ours gives."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from muster.auth.sas_token import parse
from muster.edge.check import connection_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from muster.edge.provisioning import backup
from muster.edge.state import StateDirectory
from muster.edge.upstream.registration import Assignment
from support.run import Run
from support.users import nobody
from unit.edge.certificates.conftest import authority
from unit.edge.check.conftest import DPS, Device, TlsServer, fine, problem, tls_server

WARNING, SKIPPED = Result.WARNING, Result.SKIPPED


def _answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def test_a_provisioning_service_in_trouble(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        device.write(base=DPS % server.port, top=f'trust_bundle_cert = "file://{server.ca}"\n')
        server.answer = _answer("503 Busy", '{"errorCode": 503, "message": "later"}')
        what, _ = problem(checks.dps_registration, device.around(), Cause.PROVISIONING_IN_TROUBLE)
        assert what == "the provisioning service answers with HTTP 503: later"
        server.answer = _answer("404 No", '{"errorCode": 404, "message": "no such scope"}')
        what, _ = problem(checks.dps_registration, device.around(), Cause.REGISTRATION_UNKNOWN)
        assert what == "the provisioning service knows no r in 0ne1: no such scope"


def test_a_device_with_a_certificate_shows_it(device: Device, tmp_path: Path) -> None:
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(authority(tmp_path / "x", device.clock).issuer().anchors)
    certificate, key = tmp_path / "x" / "ca.pem", tmp_path / "x" / "ca.key"
    with tls_server(tmp_path / "server") as server:
        assert server.context is not None
        server.context.verify_mode = ssl.CERT_REQUIRED
        server.context.load_verify_locations(anchors)
        _with_certificate(device, server, certificate, key)
        server.answer = _answer("200 OK", "{}")
        fine(checks.dps_registration, device.around())
        assert b"Authorization" not in server.requests[0]
        server.answer = _answer("401 No", '{"errorCode": 401002, "message": "Unauthorized"}')
        what, fix = problem(checks.dps_registration, device.around(), Cause.PROOF_REFUSED)
        assert what == (
            "the provisioning service does not accept the certificate of r: Unauthorized"
        )
        assert "or of a CA that it knows" in fix
        (tmp_path / "other.key").write_bytes(server.ca.read_bytes())
        _with_certificate(device, server, certificate, tmp_path / "other.key")
        problem(checks.dps_registration, device.around(), Cause.IDENTITY_KEY_UNUSABLE)


def test_a_registration_id_that_stands_in_a_certificate_that_is_not_there(
    device: Device, tmp_path: Path
) -> None:
    with tls_server(tmp_path) as server:
        missing = tmp_path / "missing.pem"
        _with_certificate(device, server, missing, missing)
        device.file.write_text(device.file.read_text().replace('registration_id = "r"', ""))
        for check in (checks.dps_registration, checks.hub_https, checks.hub_authentication):
            problem(check, device.around(), Cause.IDENTITY_CERTIFICATE_UNUSABLE)


def _with_certificate(device: Device, server: TlsServer, certificate: Path, key: Path) -> None:
    base = (DPS % server.port).partition("method =")[0]
    device.write(
        'method = "x509"\nregistration_id = "r"\n'
        f'identity_cert = "file://{certificate}"\nidentity_pk = "file://{key}"\n',
        base=base,
        top=f'trust_bundle_cert = "file://{server.ca}"\n',
    )


def test_tokens_have_the_time_of_the_service_as_the_daemon_s_have(
    device: Device, tmp_path: Path
) -> None:
    with tls_server(tmp_path) as server:
        device.write(base=DPS % server.port, top=f'trust_bundle_cert = "file://{server.ca}"\n')
        server.answer = _answer("200 OK", "{}")
        around = device.around()
        around.skew_s = 4000.0
        fine(checks.dps_registration, around)
        (request,) = server.requests
    token = request.partition(b"Authorization: ")[2].partition(b"\r\n")[0].decode()
    assert parse(token).expiry == int(device.clock.time() - 4000) + 300


def test_a_hub_in_trouble(device: Device, tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        device.write(top=f'trust_bundle_cert = "file://{server.ca}"\n')
        device.options["hub_host"] = f"127.0.0.1:{server.port}"
        server.answer = _answer("500 Oh", '{"Message": "internal"}')
        what, _ = problem(checks.hub_authentication, device.around(), Cause.HUB_IN_TROUBLE)
        assert what == "the hub 127.0.0.1 answers with HTTP 500: internal"
        server.answer = _answer("401 No", '{"Message": "who are you"}')
        what, _ = problem(checks.hub_authentication, device.around(), Cause.HUB_REFUSES)
        assert what == "the hub 127.0.0.1 does not let d1 in: HTTP 401 who are you"


def test_below_another_device_the_hub_is_looked_for_there(device: Device) -> None:
    device.write(top='parent_hostname = "above.invalid"\n')
    for check in (checks.hub_https, checks.hub_authentication):
        what, _ = problem(check, device.around(), Cause.NAME_UNKNOWN)
        assert what.startswith("DNS: above.invalid cannot be resolved")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot listen on port 443")
def test_a_device_above_in_trouble(device: Device, tmp_path: Path) -> None:
    run = Run.current()
    above = f"127.{150 + run.slot}.251.{run.next_number() % 250 + 1}"
    with tls_server(tmp_path, above, address=above, port=443) as server:
        trust = f'trust_bundle_cert = "file://{server.ca}"\n'
        device.write(top=f'parent_hostname = "{above}"\n{trust}')
        server.answer = _answer("401 No", '{"errorMessage": "not in the scope"}')
        what, fix = problem(checks.hub_authentication, device.around(), Cause.HUB_REFUSES)
        assert what == f"{above}, the device above, does not let d1 in: HTTP 401 not in the scope"
        assert f"it must be below {above}: muster device update d1 --parent ID" in fix
        server.answer = _answer("500 Oh", '{"errorMessage": "no link"}')
        what, _ = problem(checks.hub_authentication, device.around(), Cause.HUB_IN_TROUBLE)
        assert what == f"{above}, the device above, answers with HTTP 500: no link"


def test_ports_that_the_device_can_do_without(device: Device) -> None:
    device.options["hub_host"] = "127.99.99.99"
    what, _ = problem(checks.hub_mqtt, device.around(), Cause.PORT_REFUSED, WARNING)
    assert what.endswith(" (the device uses MQTT over WebSockets, port 443, instead)")
    what, _ = problem(checks.hub_amqp, device.around(), Cause.PORT_REFUSED, WARNING)
    assert what.endswith("need it; the device does not)")


def test_what_upstream_protocol_leaves_of_them(device: Device) -> None:
    device.options["hub_host"] = "127.99.99.99"
    device.write('[agent.env]\nUpstreamProtocol = "Mqtt"\n')
    what, _ = problem(checks.hub_mqtt, device.around(), Cause.PORT_REFUSED)
    assert "WebSockets" not in what
    assert checks.hub_amqp(device.around()) == IGNORED
    device.write('[agent.env]\nUpstreamProtocol = "MqttWs"\n')
    assert checks.hub_mqtt(device.around()) == checks.hub_amqp(device.around()) == IGNORED
    device.write('[agent.env]\nUpstreamProtocol = "AmqpWs"\n')
    assert checks.hub_mqtt(device.around()) == IGNORED
    problem(checks.hub_amqp, device.around(), Cause.PORT_REFUSED, WARNING)


def test_mqtt_goes_by_no_proxy(device: Device) -> None:
    device.options |= {"hub_host": "127.99.99.99", "proxy": "http://nothing.invalid:1"}
    what, _ = problem(checks.hub_mqtt, device.around(), Cause.PORT_REFUSED, WARNING)
    assert what.startswith("TCP: 127.99.99.99:8883 refuses")
    what, _ = problem(checks.hub_https, device.around(), Cause.NAME_UNKNOWN)
    assert what.startswith("DNS: the proxy nothing.invalid")


# To which hub the device is assigned.


def test_a_device_that_is_not_assigned(device: Device) -> None:
    device.write(base=DPS % 443)
    for check in (checks.hub_https, checks.hub_mqtt, checks.hub_amqp, checks.hub_authentication):
        what, _ = problem(check, device.around(), Cause.NOT_ASSIGNED, SKIPPED)
        assert what == "the device is not assigned to a hub yet"


def test_looking_puts_nothing_aside(device: Device) -> None:
    """The daemon puts a file that it cannot use aside; whoever checks only looks."""
    device.write(base=DPS % 443)
    kept = device.home / "provisioning.json"
    kept.write_text("{")
    kept.chmod(0o600)
    problem(checks.hub_https, device.around(), Cause.NOT_ASSIGNED, SKIPPED)
    assert [each.name for each in device.home.iterdir()] == ["provisioning.json"]


def test_an_assignment_that_this_user_may_not_read(device: Device) -> None:
    device.write(base=DPS % 443)
    around = device.around()
    given = around.settings.provisioning
    assert given is not None
    backup.save(
        StateDirectory(device.home),
        backup.fingerprint(given),
        Assignment(hub_host="127.99.99.99", device_id="d1"),
    )
    problem(checks.hub_https, around, Cause.PORT_REFUSED)
    (device.home / "provisioning.json").chmod(0)
    with nobody():
        _, fix = problem(checks.hub_https, around, Cause.IDENTITY_UNREADABLE, SKIPPED)
    assert fix.startswith("try again with sudo")
