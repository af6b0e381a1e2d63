"""Checks of the way to the cloud: what is done for real, with calls that change nothing.

A proof is tried with the state of the registration, and with the list of modules.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from muster.auth import sas_token
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, OK, Outcome, Problem, Result, skipped, warning
from muster.edge.check.probe import Answer, connected, request, split
from muster.edge.provisioning import backup
from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    SymmetricKeyAttestation,
    X509Attestation,
)
from muster.edge.upstream import registration, trust
from muster.edge.upstream.login import Transport, transports
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings
    from muster.edge.upstream.registration import Assignment

HTTPS: Final = 443
MQTT: Final = 8883
AMQP: Final = 5671
_TOKEN_S: Final = 300


def dps_endpoint(around: Surroundings) -> Outcome:
    """Connect to the provisioning service with TLS."""
    given = around.settings.provisioning
    if not isinstance(given, DpsProvisioning):
        return IGNORED
    request(around, *_endpoint(given), "GET", "/")
    return OK


def dps_registration(around: Surroundings) -> Outcome:
    """Ask the provisioning service for the registration, with the device's own proof."""
    given = around.settings.provisioning
    if not isinstance(given, DpsProvisioning):
        return IGNORED
    registration_id = _registration_id(given)
    proof, token = "certificate", None
    if isinstance(given.attestation, SymmetricKeyAttestation):
        resource = f"{given.id_scope}/registrations/{registration_id}".lower()
        expiry = int(around.service_time()) + _TOKEN_S
        proof = "key"
        token = sas_token.sign(resource, given.attestation.key, expiry, "registration")
    answer = request(
        around,
        *_endpoint(given),
        "POST",
        f"/{quote(given.id_scope, safe='')}/registrations/{quote(registration_id, safe='')}"
        "?api-version=2021-06-01",
        token=token,
        body=json.dumps({"registrationId": registration_id}).encode(),
        context=_with_certificate(around),
    )
    said = _said(answer)
    if answer.status == 200:
        return OK
    if answer.status == 401:
        raise Problem(
            Cause.PROOF_REFUSED,
            f"the provisioning service does not accept the {proof} of {registration_id}: {said}",
            "see that ID scope and registration ID are right, that the enrollment is there and "
            f"enabled, and that the {proof} is the one it knows"
            + (
                ": symmetric_key is the device's own key; for a group, the key derived from the "
                "group's, never that itself"
                if proof == "key"
                else ", or of a CA that it knows"
            )
            + ". Who runs the service can see the exact cause: "
            f"muster registration explain {registration_id}",
        )
    if answer.status == 404:
        if "egistration" in said or not said:
            raise warning(
                Cause.NOT_REGISTERED,
                f"{registration_id} is accepted but has not registered yet",
                "start the daemon, which registers: sudo iotedge system restart",
            )
        raise Problem(
            Cause.REGISTRATION_UNKNOWN,
            f"the provisioning service knows no {registration_id} in {given.id_scope}: {said}",
            "see that ID scope and registration ID are right",
        )
    raise Problem(
        Cause.PROVISIONING_IN_TROUBLE,
        f"the provisioning service answers with HTTP {answer.status}: {said}",
        "try again later; if it stays so, its log has the reason",
    )


def hub_https(around: Surroundings) -> Outcome:
    """Connect to the hub's HTTPS port, which WebSockets use, too."""
    request(around, *gateway(around), "GET", "/")
    return OK


def hub_mqtt(around: Surroundings) -> Outcome:
    """Connect to the hub's MQTT port, as far as `UpstreamProtocol` lets the device use it."""
    ways = _ways(around)
    if Transport.MQTT not in ways:
        return IGNORED
    host, _ = gateway(around)
    try:
        # As the device does: a proxy is for HTTPS and WebSockets.
        with connected(around, host, MQTT, proxied=False):
            return OK
    except Problem as problem:
        if Transport.WEBSOCKET not in ways or problem.outcome.result is Result.SKIPPED:
            raise
        raise _spared(problem, "the device uses MQTT over WebSockets, port 443, instead") from None


def hub_amqp(around: Surroundings) -> Outcome:
    """Connect to the hub's AMQP port, which modules may use and the device itself does not."""
    if not wants_amqp(around):
        return IGNORED
    host, _ = gateway(around)
    try:
        with connected(around, host, AMQP, proxied=False):
            return OK
    except Problem as problem:
        if problem.outcome.result is Result.SKIPPED:
            raise
        text = "only modules that speak AMQP with the hub themselves need it; the device does not"
        raise _spared(problem, text) from None


def wants_amqp(around: Surroundings) -> bool:
    """Return whether AMQP may be of use: not where `UpstreamProtocol` says MQTT (edge.md 7.1)."""
    return not around.settings.agent.env.get("UpstreamProtocol", "").lower().startswith("mqtt")


def _ways(around: Surroundings) -> tuple[Transport, ...]:
    return transports(around.settings.agent.env.get("UpstreamProtocol"))


def _spared(problem: Problem, why: str) -> Problem:
    """Return the same, as something that the device can do without."""
    cause = problem.outcome.cause
    assert cause is not None  # noqa: S101 - every problem has one
    return warning(cause, f"{problem.what} ({why})", problem.fix, blocks=True)


def hub_authentication(around: Surroundings) -> Outcome:
    """List the device's modules with its own key or certificate."""
    device_id, key = _device(around)
    hub, _ = split(_hub(around), HTTPS)
    host, port = gateway(around)
    token = None
    if key is not None:
        expiry = int(around.service_time()) + _TOKEN_S
        token = sas_token.sign(f"{hub}/devices/{device_id}", key, expiry)
    path = f"/devices/{quote(device_id, safe='')}/modules?api-version=2017-11-08-preview"
    context = _with_certificate(around)
    answer = request(around, host, port, "GET", path, token=token, context=context)
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
            Cause.HUB_REFUSES,
            f"{who} does not let {device_id} in: HTTP {answer.status} {said}",
            "see that the device is there and enabled in the hub, and is an IoT Edge device "
            f"(muster device show {device_id}); {fix}",
        )
    raise Problem(
        Cause.HUB_IN_TROUBLE,
        f"{who} answers with HTTP {answer.status}: {said}",
        "try again later; if it stays so, its log has the reason",
    )


# What the device is.


def _endpoint(given: DpsProvisioning) -> tuple[str, int]:
    parts = urlsplit(given.endpoint)
    return parts.hostname or "", parts.port or HTTPS


def _registration_id(given: DpsProvisioning) -> str:
    try:
        return registration.registration_id(given)
    except InvalidArgumentError as error:  # it stands in a certificate, which cannot be read
        raise Problem(
            Cause.IDENTITY_CERTIFICATE_UNUSABLE, error.message, "see identity-certificate-expiry"
        ) from None


def _with_certificate(around: Surroundings) -> ssl.SSLContext | None:
    """Return a context for a device with a certificate; `None` for one with a key."""
    given = around.settings.provisioning
    proof = given.attestation if isinstance(given, DpsProvisioning) else given
    if not isinstance(proof, X509Attestation | ManualProvisioning) or proof.certificate is None:
        return None
    try:
        return trust.context(around.settings.trust_bundle, proof.certificate, proof.private_key)
    except OSError as error:
        raise Problem(
            Cause.IDENTITY_KEY_UNUSABLE,
            f"identity_cert and identity_pk cannot be used: {error}",
            "see identity-certificate-expiry",
        ) from None


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
        return parent, HTTPS
    return split(_hub(around), HTTPS)


def _assignment(around: Surroundings) -> Assignment:
    given = around.settings.provisioning
    if isinstance(given, DpsProvisioning):
        _registration_id(given)  # what was assigned is known by it
    try:
        kept = backup.peek(around.settings.home)
    except PermissionError:
        raise skipped(
            Cause.IDENTITY_UNREADABLE,
            f"to which hub the device is assigned may not be read in {around.settings.home}",
            "try again with sudo; --iothub-hostname names a hub to look at",
        ) from None
    if kept is None or given is None or kept.configuration != backup.fingerprint(given):
        raise skipped(
            Cause.NOT_ASSIGNED,
            "the device is not assigned to a hub yet",
            "see the checks of the provisioning service; --iothub-hostname names a hub to look at",
        )
    return kept.assignment


def _said(answer: Answer) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(answer.body)
        said = (found.get(name) for name in ("message", "Message", "errorMessage"))
        return str(next((each for each in said if each), ""))[:300]
    return ""
