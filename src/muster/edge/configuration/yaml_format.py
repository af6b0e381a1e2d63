"""`config.yaml` of 1.1 (edge.md 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from muster.edge.configuration import shared_parts, values
from muster.edge.settings import (
    DpsProvisioning,
    EdgeCa,
    ImageCollection,
    ManualProvisioning,
    Reprovisioning,
    Settings,
    SymmetricKeyAttestation,
    TpmAttestation,
    X509Attestation,
)

if TYPE_CHECKING:
    from muster.edge.configuration.section import Section


def read(top: Section, hostname: str) -> Settings:
    """Return the settings of a file.

    Args:
        top: the whole file.
        hostname: of the machine, where the file names none.

    Raises:
        ConfigurationError: a key is unknown, has a bad value or cannot be honoured.
    """
    top.notice("watchdog", "has no effect: the agent is part of this runtime")
    provisioning, mode = _provisioning(top)
    certificates = top.section("certificates")
    edge_ca = EdgeCa(
        certificate=values.file(certificates, "device_ca_cert", plain=True),
        private_key=values.file(certificates, "device_ca_pk", plain=True),
        lifetime_days=certificates.number(
            "auto_generated_ca_lifetime_days", EdgeCa().lifetime_days, 1, 36_500
        ),
    )
    trust_bundle = values.file(certificates, "trusted_ca_certs", plain=True)
    if (edge_ca.certificate is None) != (edge_ca.private_key is None):
        raise certificates.error(None, "device_ca_cert and device_ca_pk belong together")
    certificates.finish()
    elevated = top.flag("allow_elevated_docker_permissions", default=True)
    home = top.text("homedir") or "/var/lib/iotedge"
    if not home.startswith("/"):
        raise top.error("homedir", "must be an absolute path")
    settings = Settings(
        source=top.source,
        provisioning=provisioning,
        hostname=values.host_name(top, "hostname") or hostname,
        home=Path(home),
        parent_hostname=values.host_name(top, "parent_hostname"),
        reprovisioning=mode,
        trust_bundle=trust_bundle,
        agent=shared_parts.agent(top.section("agent")),
        engine=shared_parts.container_engine(top.section("moby_runtime"), elevated=elevated),
        # Devices of 1.1 kept all images, and their file has no key to say so.
        image_collection=ImageCollection(enabled=False),
        sockets=shared_parts.sockets(top.section("connect"), top.section("listen")),
        edge_ca=edge_ca,
    )
    if settings.parent_hostname is not None and isinstance(provisioning, DpsProvisioning):
        raise top.error("parent_hostname", shared_parts.NO_DPS_BELOW)
    top.finish()
    return settings


def _provisioning(top: Section) -> tuple[DpsProvisioning | ManualProvisioning, Reprovisioning]:
    if "provisioning" not in top:
        raise top.error(None, "provisioning is missing")
    section = top.section("provisioning")
    source = section.choice("source", ("manual", "dps", "external"))
    if source is None:
        raise section.error(None, "source is missing: manual or dps")
    if source == "external":
        raise section.error("source", "external provisioning cannot be had; use dps or manual")
    found: DpsProvisioning | ManualProvisioning
    dynamic = section.flag("dynamic_reprovisioning", default=False)
    mode = Reprovisioning.DYNAMIC if dynamic else Reprovisioning.ON_ERROR_ONLY
    if source == "dps":
        if section.flag("always_reprovision_on_startup", default=True):
            mode = Reprovisioning.ALWAYS_ON_STARTUP
        found = _dps(section)
    else:
        found = _manual(section)
    section.finish()
    return found, mode


def _manual(section: Section) -> ManualProvisioning:
    if "device_connection_string" in section:
        return values.from_connection_string(section, "device_connection_string")
    authentication = section.section("authentication")
    method = authentication.choice("method", ("device_connection_string", "x509"))
    if method is None:
        raise section.error(None, "device_connection_string or authentication is missing")
    if method == "device_connection_string":
        found = values.from_connection_string(authentication, "device_connection_string")
    else:
        certificate, private_key = _identity(authentication)
        found = ManualProvisioning(
            hub_host=values.hub_host(authentication, "iothub_hostname"),
            device_id=values.device_id(authentication, "device_id"),
            certificate=certificate,
            private_key=private_key,
        )
    authentication.finish()
    return found


def _dps(section: Section) -> DpsProvisioning:
    legacy = values.registration_id(section, "registration_id")
    attestation = section.section("attestation")
    if legacy is not None and "attestation" in section:
        raise section.error("registration_id", "belongs into attestation, which is there")
    proof = _attestation(attestation) if legacy is None else TpmAttestation(registration_id=legacy)
    return DpsProvisioning(
        endpoint=values.endpoint(section, "global_endpoint"),
        id_scope=values.id_scope(section, "scope_id"),
        attestation=proof,
    )


def _attestation(section: Section) -> SymmetricKeyAttestation | X509Attestation | TpmAttestation:
    method = section.choice("method", ("symmetric_key", "x509", "tpm"))
    if method is None:
        raise section.error(None, "method is missing: symmetric_key, x509 or tpm")
    registration = values.registration_id(section, "registration_id")
    proof: SymmetricKeyAttestation | X509Attestation | TpmAttestation
    if method == "x509":
        certificate, private_key = _identity(section)
        proof = X509Attestation(
            registration_id=registration, certificate=certificate, private_key=private_key
        )
    elif registration is None:
        raise section.error(None, "registration_id is missing")
    elif method == "symmetric_key":
        text = section.required("symmetric_key")
        proof = SymmetricKeyAttestation(
            registration_id=registration, key=values.key_of(section, "symmetric_key", text)
        )
    else:
        proof = TpmAttestation(registration_id=registration)
    section.finish()
    return proof


def _identity(section: Section) -> tuple[Path, Path]:
    certificate = values.file(section, "identity_cert", plain=True)
    private_key = values.file(section, "identity_pk", plain=True)
    if certificate is None or private_key is None:
        raise section.error(None, "identity_cert and identity_pk are needed")
    return certificate, private_key
