"""Checks of the way to the cloud, and of the device's own doors: what is done for real.

A proof is tried with calls that change nothing: the state of the registration, the list of modules.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from muster.auth import sas_token
from muster.edge.check.outcome import IGNORED, OK, Outcome, Problem, Result, warning
from muster.edge.check.probe import PATIENCE_S, Answer, connected, request, split
from muster.edge.local_api.sockets import path_of
from muster.edge.provisioning import backup
from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    SymmetricKeyAttestation,
)
from muster.edge.state import StateDirectory

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings
    from muster.edge.upstream.registration import Assignment

_MOST_SKEW_S: Final = 10.0
_FATAL_SKEW_S: Final = 300.0
"""What services forgive in tokens."""
_TOKEN_S: Final = 300
_NTP_EPOCH: Final = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 5905)."""
_HTTPS: Final = 443
MQTT: Final = 8883


def dps_endpoint(around: Surroundings) -> Outcome:
    """Connect to the provisioning service with TLS."""
    given = around.settings.provisioning
    if not isinstance(given, DpsProvisioning):
        return IGNORED
    host, port = _endpoint(given)
    answer = request(around, host, port, "GET", "/")
    _learn_time(around, answer)
    return OK


def local_time(around: Surroundings) -> Outcome:
    """Compare the clock with an NTP server's, else with what the services say."""
    server = around.options.ntp_server
    if server is not None:
        around.skew_s = around.clock.time() - _ntp(*split(server, 123))
    skew = around.skew_s
    if skew is None:
        return Outcome(result=Result.SKIPPED, details=("no service has told the time",))
    if abs(skew) >= _MOST_SKEW_S:
        direction = "ahead" if skew > 0 else "behind"
        raise Problem(
            f"the clock of this device is {abs(skew):.0f} s {direction}",
            "let it be set by a time server (timedatectl set-ntp true; chrony or systemd-timesyncd "
            "with a server that can be reached)",
            Result.ERROR if abs(skew) > _FATAL_SKEW_S else Result.WARNING,
        )
    return Outcome(result=Result.OK, facts={"skew_s": round(skew, 1)})


def dps_registration(around: Surroundings) -> Outcome:
    """Ask the provisioning service for the registration, with the device's own proof."""
    given = around.settings.provisioning
    if not isinstance(given, DpsProvisioning) or not isinstance(
        given.attestation, SymmetricKeyAttestation
    ):
        return IGNORED
    host, port = _endpoint(given)
    registration_id = given.attestation.registration_id
    token = sas_token.sign(
        f"{given.id_scope}/registrations/{registration_id}",
        given.attestation.key,
        int(around.clock.time()) + _TOKEN_S,
        "registration",
    )
    answer = request(
        around,
        host,
        port,
        "POST",
        f"/{quote(given.id_scope, safe='')}/registrations/{quote(registration_id, safe='')}"
        "?api-version=2021-06-01",
        token=token,
        body=json.dumps({"registrationId": registration_id}).encode(),
    )
    said = _said(answer)
    if answer.status == 200:
        return OK
    if answer.status == 401:
        raise Problem(
            f"the provisioning service does not accept the key of {registration_id}: {said}",
            "see that ID scope and registration ID are right, that the enrollment is there and "
            "enabled, and that symmetric_key is the device's own key: for a group, the key derived "
            "from the group's, never that itself. Who runs the service can see the exact cause: "
            f"muster registration explain {registration_id}" + _clock_hint(around),
        )
    if answer.status == 404:
        if "egistration" in said or not said:
            raise warning(
                f"{registration_id} is accepted but has not registered yet",
                "start the daemon, which registers: sudo iotedge system restart",
            )
        raise Problem(
            f"the provisioning service knows no {registration_id} in {given.id_scope}: {said}",
            "see that ID scope and registration ID are right",
        )
    raise Problem(
        f"the provisioning service answers with HTTP {answer.status}: {said}",
        "try again later; if it stays so, its log has the reason",
    )


def hub_https(around: Surroundings) -> Outcome:
    """Connect to the hub's HTTPS port, which WebSockets use, too."""
    host, port = gateway(around)
    _learn_time(around, request(around, host, port, "GET", "/"))
    return OK


def hub_mqtt(around: Surroundings) -> Outcome:
    """Connect to the hub's MQTT port. Without it the device goes by WebSockets."""
    host, _ = gateway(around)
    try:
        with connected(around, host, MQTT):
            return OK
    except Problem as problem:
        what, fix = problem.outcome.details
        raise warning(
            f"{what} (the device uses MQTT over WebSockets, port 443, instead)",
            fix.removeprefix("Fix: "),
        ) from None


def hub_authentication(around: Surroundings) -> Outcome:
    """List the device's modules with its own key."""
    device_id, key = _device(around)
    if key is None:
        return IGNORED
    hub, _ = split(_hub(around), _HTTPS)
    host, port = gateway(around)
    token = sas_token.sign(f"{hub}/devices/{device_id}", key, int(around.clock.time()) + _TOKEN_S)
    path = f"/devices/{quote(device_id, safe='')}/modules?api-version=2017-11-08-preview"
    answer = request(around, host, port, "GET", path, token=token)
    said = _said(answer)
    if answer.status == 200:
        return Outcome(result=Result.OK, facts={"device_id": device_id})
    parent = around.settings.parent_hostname
    who = f"the hub {hub}" if parent is None else f"{parent}, the device above,"
    if answer.status in (401, 403, 404):
        fix = "a device that was moved is let in after: sudo iotedge system reprovision"
        if parent is not None:
            fix = f"it must be below {parent}: muster device update {device_id} --parent ID"
        raise Problem(
            f"{who} does not let {device_id} in: HTTP {answer.status} {said}",
            "see that the device is there and enabled in the hub, and is an IoT Edge device "
            f"(muster device show {device_id}); {fix}" + _clock_hint(around),
        )
    raise Problem(
        f"{who} answers with HTTP {answer.status}: {said}",
        "try again later; if it stays so, its log has the reason",
    )


def edge_hub(around: Surroundings) -> Outcome:
    """Connect to the device's own edge hub as modules and leaf devices do."""
    settings = around.settings
    anchors = _trust_bundle(around)
    context = ssl.create_default_context(cadata=anchors)
    address = settings.edge_hub.address or "127.0.0.1"
    ports = settings.edge_hub
    for port in (ports.mqtt_port, ports.https_port, ports.amqp_port):
        try:
            with (
                socket.create_connection((address, port), PATIENCE_S) as raw,
                context.wrap_socket(raw, server_hostname=settings.hostname),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            raise Problem(
                f"the edge hub's certificate is not accepted: {error.verify_message}",
                "another program may have taken its port; else: iotedge restart edgeHub",
            ) from None
        except OSError as error:
            raise Problem(
                f"the edge hub does not listen on {address}:{port}: {error.strerror or error}",
                "iotedge list and iotedge logs edgeHub say why: another program may have the port "
                f"(ss -ltnp 'sport = :{port}')",
            ) from None
    return OK


def _trust_bundle(around: Surroundings) -> str:
    """Return what modules trust, as they learn it: from the workload API."""
    import http.client  # noqa: PLC0415 - one call

    path = path_of(around.settings.sockets.workload)
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(str(path))
        connection.request("GET", "/trust-bundle?api-version=2022-08-03")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if answer.status == 200:
            return str(found["certificate"])
        reason = str(found.get("message", answer.status))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error)
    finally:
        connection.close()
    raise Problem(
        f"the workload API at {path} gives modules no trust bundle: {reason}",
        "before the device has an identity there is none: see the checks of the provisioning "
        "service; else: iotedge system logs",
    )


# What the device is.


def _endpoint(given: DpsProvisioning) -> tuple[str, int]:
    parts = urlsplit(given.endpoint)
    return parts.hostname or "", parts.port or _HTTPS


def _device(around: Surroundings) -> tuple[str, bytes | None]:
    given = around.settings.provisioning
    if isinstance(given, ManualProvisioning):
        return given.device_id, given.key
    assert given is not None  # noqa: S101 - for the type checker
    key = given.attestation.key if isinstance(given.attestation, SymmetricKeyAttestation) else None
    return _assignment(around).device_id, key


def _hub(around: Surroundings) -> str:
    """Return the hub, which stands in the file, or was said by the provisioning service."""
    if around.options.hub_host is not None:
        return around.options.hub_host
    given = around.settings.provisioning
    if isinstance(given, ManualProvisioning):
        return given.hub_host
    return _assignment(around).hub_host


def gateway(around: Surroundings) -> tuple[str, int]:
    """Return where the hub is reached: at the device above, where there is one."""
    parent = around.settings.parent_hostname
    if parent is not None and around.options.hub_host is None:
        return parent, _HTTPS
    return split(_hub(around), _HTTPS)


def _assignment(around: Surroundings) -> Assignment:
    given = around.settings.provisioning
    kept = None
    with contextlib.suppress(OSError):
        if around.settings.home.is_dir():
            kept = backup.load(StateDirectory(around.settings.home))
    if kept is None or given is None or kept.configuration != backup.fingerprint(given):
        raise Problem(
            "the device is not assigned to a hub yet",
            "see the checks of the provisioning service; --iothub-hostname names a hub to look at",
            Result.SKIPPED,
        )
    return kept.assignment


def _learn_time(around: Surroundings, answer: Answer) -> None:
    if answer.date is not None:
        around.skew_s = around.clock.time() - answer.date


def _clock_hint(around: Surroundings) -> str:
    skew = around.skew_s
    if skew is None or abs(skew) < _FATAL_SKEW_S:
        return ""
    return f". First set the clock: it is {abs(skew):.0f} s off, and tokens have a time"


def _said(answer: Answer) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(answer.body)
        said = (found.get(name) for name in ("message", "Message", "errorMessage"))
        return str(next((each for each in said if each), ""))[:300]
    return ""


def _ntp(host: str, port: int) -> float:
    """Ask a time server (SNTP, RFC 4330) and return unix seconds."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(PATIENCE_S)
            channel.sendto(b"\x23" + bytes(47), (host, port))
            answer = channel.recv(512)
    except OSError as error:
        raise Problem(
            f"the time server {host}:{port} does not answer: {error.strerror or 'timed out'}",
            "name another one with --ntp-server, or let UDP port 123 out",
            Result.WARNING,
        ) from None
    if len(answer) < 48:
        raise warning(f"{host}:{port} is no time server", "name another one with --ntp-server")
    seconds = int.from_bytes(answer[40:44]) - _NTP_EPOCH
    return seconds + int.from_bytes(answer[44:48]) / 2**32
