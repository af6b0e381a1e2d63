"""Checks of the certificates that were brought to the device."""

from __future__ import annotations

import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, OK, Outcome, Problem, warning
from muster.edge.settings import DpsProvisioning, ManualProvisioning, X509Attestation
from muster.edge.upstream import trust
from muster.errors import MusterError, UnavailableError
from muster.ids import Randomness

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings

_SOON: Final = timedelta(days=7)


def trust_bundle(around: Surroundings) -> Outcome:
    """Read the trust bundle."""
    path = around.settings.trust_bundle
    if path is None:
        return IGNORED
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Problem(
            Cause.TRUST_BUNDLE_UNUSABLE,
            f"trust_bundle_cert {path} cannot be used: {getattr(error, 'strerror', None) or error}",
            "put PEM certificates there, or take trust_bundle_cert out",
        ) from None
    return OK


def identity_certificate(around: Surroundings) -> Outcome:
    """Look at the device's own certificate and its key, where it has them."""
    given = around.settings.provisioning
    proof: Any = given.attestation if isinstance(given, DpsProvisioning) else given
    if not isinstance(proof, X509Attestation | ManualProvisioning) or proof.certificate is None:
        return IGNORED
    try:
        found = x509.load_pem_x509_certificates(proof.certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise Problem(
            Cause.IDENTITY_CERTIFICATE_UNUSABLE,
            f"identity_cert {proof.certificate} cannot be used: {error}",
            "put the device's certificate there, PEM, its own first",
        ) from None
    try:
        trust.check(None, proof.certificate, proof.private_key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise Problem(
            Cause.IDENTITY_KEY_UNUSABLE,
            f"identity_pk {proof.private_key} cannot be used with identity_cert: {reason}",
            "put the key of that certificate there, PEM, readable by its owner",
        ) from None
    return _lifetime(
        around, found, f"the device's certificate {proof.certificate}", "get a new one"
    )


def edge_ca(around: Surroundings) -> Outcome:
    """Use the device's CA as the daemon does, where it was brought."""
    settings = around.settings
    if settings.edge_ca.certificate is None:
        return IGNORED
    authority = DeviceAuthority(
        settings.edge_ca,
        settings.home / "certificates",
        "",
        clock=around.clock,
        randomness=Randomness(),
    )
    try:
        issuer = authority.issuer()
    except UnavailableError as error:
        raise Problem(
            Cause.EDGE_CA_OUT_OF_TIME,
            f"edge_ca: {error}",
            "bring a new one; where it is this device's clock that is wrong, set it (date -u)",
        ) from None
    except (MusterError, OSError) as error:
        raise Problem(
            Cause.EDGE_CA_UNUSABLE,
            f"edge_ca: {error}",
            "correct edge_ca.cert and edge_ca.pk, or take both out: the device makes a CA then",
        ) from None
    return _lifetime(around, issuer.certificate, "the CA of edge_ca", "get a new one")


def _lifetime(around: Surroundings, certificate: x509.Certificate, what: str, fix: str) -> Outcome:
    now, end = around.clock.now(), certificate.not_valid_after_utc
    # Neither keeps others from finding out what the service thinks of it: some do not mind.
    if now >= end:
        raise Problem(Cause.CERTIFICATE_ENDED, f"{what} ended on {end:%Y-%m-%d}", fix, blocks=False)
    if now < certificate.not_valid_before_utc:
        raise Problem(
            Cause.CERTIFICATE_TOO_NEW,
            f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d} on",
            "see that the clock of this device is right: date -u",
            blocks=False,
        )
    if end - now < _SOON:
        raise warning(Cause.CERTIFICATE_ENDS_SOON, f"{what} ends on {end:%Y-%m-%d}", fix)
    return OK
