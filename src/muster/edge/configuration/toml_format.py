"""`config.toml` of 1.2 and later (edge.md 4.2)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from muster.edge.configuration import shared_parts, values
from muster.edge.settings import (
    DpsProvisioning,
    EdgeCa,
    EdgeHubSettings,
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

_NO_SUCH_SERVICE: Final = "has no effect: keys and certificates have no services of their own here"
REFUSED: Final = {
    "imported_master_encryption_key": "what modules encrypted with another runtime cannot be read "
    "here; take it out, and modules encrypt anew",
    "localid": "identities without a hub cannot be had here; take it out",
    "aziot_keys": "keys in hardware (PKCS #11) cannot be used; take it out and keep keys in files",
    "preloaded_keys": "name each key where it is used, as { uri = 'file:///…' }",
    "preloaded_certs": "name each certificate where it is used, as a file URI",
    "cert_issuance": "certificates come from files or from the device's own CA; take it out",
    "tpm": "settings of a TPM cannot be honoured; take it out",
}
"""Keys that cannot be honoured, and what to do about them."""
_PERCENT: Final = re.compile(r"([0-9]{1,3})\s*%")
_DAY_S: Final = 86_400
_FROM_CA: Final = "certificates from EST or a local CA cannot be had; name a file"


def read(top: Section, hostname: str) -> Settings:
    """Return the settings of a file.

    Args:
        top: the whole file.
        hostname: of the machine, where the file names none.

    Raises:
        ConfigurationError: a key is unknown, has a bad value or cannot be honoured.
    """
    for key, reason in REFUSED.items():
        top.refuse(key, reason)
    top.notice("aziot_max_requests", _NO_SUCH_SERVICE)
    top.notice("watchdog", "has no effect: the agent is part of this runtime")
    for key in ("prefer_module_identity_cache", "cloud_timeout_sec", "cloud_retries"):
        top.notice(key, "has no effect: calls to the cloud are bounded, and repeated, anyway")
    parent, alias = (
        values.host_name(top, key) for key in ("parent_hostname", "local_gateway_hostname")
    )
    if parent is not None and alias is not None:
        raise top.error("local_gateway_hostname", "is another name of parent_hostname: give one")
    mode = top.choice("auto_reprovisioning_mode", tuple(Reprovisioning))
    limits = top.section("iotedge_max_requests")
    sockets = msgspec.structs.replace(
        shared_parts.sockets(top.section("connect"), top.section("listen")),
        management_requests=limits.number("management", 50, 1, 10_000),
        workload_requests=limits.number("workload", 50, 1, 10_000),
    )
    limits.finish()
    elevated = top.flag("allow_elevated_docker_permissions", default=True)
    home = top.text("homedir")
    settings: dict[str, Any] = {
        "hostname": values.host_name(top, "hostname") or hostname,
        "parent_hostname": parent or alias,
        "trust_bundle": values.file(top, "trust_bundle_cert"),
        "reprovisioning": Reprovisioning(mode or Reprovisioning.DYNAMIC),
        "provisioning": _provisioning(top),
        "agent": shared_parts.agent(top.section("agent")),
        "edge_hub": _edge_hub(top.section("edge_hub")),
        "engine": shared_parts.container_engine(top.section("moby_runtime"), elevated=elevated),
        "image_collection": _image_collection(top.section("image_garbage_collection")),
        "sockets": sockets,
        "edge_ca": _edge_ca(top.section("edge_ca")),
        "additional_info": top.texts("additional_info"),
        **({} if home is None else {"home": _home(top, home)}),
    }
    if isinstance(settings["provisioning"], DpsProvisioning):
        for key, name in (("parent_hostname", parent), ("local_gateway_hostname", alias)):
            if name is not None:
                raise top.error(key, shared_parts.NO_DPS_BELOW)
    top.finish()
    return Settings(source=top.source, **settings)


def _home(top: Section, text: str) -> Path:
    if not text.startswith("/"):
        raise top.error("homedir", "must be an absolute path")
    return Path(text)


def _provisioning(top: Section) -> DpsProvisioning | ManualProvisioning | None:
    if "provisioning" not in top:
        raise top.error(None, "[provisioning] is missing")
    section = top.section("provisioning")
    source = section.choice("source", ("manual", "dps", "none"))
    if source is None:
        raise section.error(None, "source is missing: manual, dps or none")
    found: DpsProvisioning | ManualProvisioning | None = None
    if source == "manual":
        found = _manual(section)
    elif source == "dps":
        found = _dps(section)
    section.finish()
    return found


def _manual(section: Section) -> ManualProvisioning:
    if "connection_string" in section:
        return values.from_connection_string(section, "connection_string")
    hub, device = (
        values.hub_host(section, "iothub_hostname"),
        values.device_id(section, "device_id"),
    )
    authentication = section.section("authentication")
    method = authentication.choice("method", ("sas", "x509"))
    if method is None:
        raise authentication.error(None, "method is missing: sas or x509")
    if method == "sas":
        found = ManualProvisioning(
            hub_host=hub, device_id=device, key=values.secret(authentication, "device_id_pk")
        )
    else:
        certificate, private_key = _identity(authentication)
        found = ManualProvisioning(
            hub_host=hub, device_id=device, certificate=certificate, private_key=private_key
        )
    authentication.finish()
    return found


def _dps(section: Section) -> DpsProvisioning:
    payload = section.section("payload")
    payload_file = values.file(payload, "uri")
    payload.finish()
    attestation = section.section("attestation")
    method = attestation.choice("method", ("symmetric_key", "x509", "tpm"))
    if method is None:
        raise attestation.error(None, "method is missing: symmetric_key, x509 or tpm")
    proof: SymmetricKeyAttestation | X509Attestation | TpmAttestation
    registration = values.registration_id(attestation, "registration_id")
    if registration is None and method != "x509":
        raise attestation.error(None, "registration_id is missing")
    if method == "symmetric_key":
        proof = SymmetricKeyAttestation(
            registration_id=registration or "", key=values.secret(attestation, "symmetric_key")
        )
    elif method == "x509":
        certificate, private_key = _identity(attestation)
        proof = X509Attestation(
            registration_id=registration, certificate=certificate, private_key=private_key
        )
    else:
        proof = TpmAttestation(registration_id=registration or "")
    attestation.finish()
    return DpsProvisioning(
        endpoint=values.endpoint(section, "global_endpoint"),
        id_scope=values.id_scope(section, "id_scope"),
        attestation=proof,
        payload=payload_file,
    )


def _identity(section: Section) -> tuple[Path, Path]:
    for key in ("identity_cert", "identity_pk"):
        if isinstance(section.value(key), dict):
            raise section.error(key, _FROM_CA)
    certificate = values.file(section, "identity_cert")
    private_key = values.file(section, "identity_pk")
    if certificate is None or private_key is None:
        raise section.error(None, "identity_cert and identity_pk are needed")
    return certificate, private_key


def _edge_hub(section: Section) -> EdgeHubSettings:
    usual = EdgeHubSettings()
    found = EdgeHubSettings(
        address=section.text("address") or usual.address,
        mqtt_port=section.number("mqtt_port", usual.mqtt_port, 1, 65_535),
        https_port=section.number("https_port", usual.https_port, 1, 65_535),
        amqp_port=section.number("amqp_port", usual.amqp_port, 1, 65_535),
    )
    section.finish()
    return found


def _image_collection(section: Section) -> ImageCollection:
    usual = ImageCollection()
    every_s = values.duration(section, "cleanup_recurrence", usual.every_days * _DAY_S)
    if every_s < _DAY_S or every_s % _DAY_S:
        raise section.error("cleanup_recurrence", 'must be whole days, such as "1d"')
    found = ImageCollection(
        enabled=section.flag("enabled", default=usual.enabled),
        every_days=every_s // _DAY_S,
        age_s=values.duration(section, "image_age_cleanup_threshold", usual.age_s),
        at_minute=values.minute_of_day(section, "cleanup_time"),
    )
    section.finish()
    return found


def _edge_ca(section: Section) -> EdgeCa:
    section.refuse("method", _FROM_CA)
    certificate, private_key = values.file(section, "cert"), values.file(section, "pk")
    if (certificate is None) != (private_key is None):
        raise section.error(None, "cert and pk belong together: give both or none")
    days = section.number("auto_generated_edge_ca_expiry_days", EdgeCa().lifetime_days, 1, 36_500)
    renewal = section.section("auto_renew")
    if not renewal.flag("rotate_key", default=True):
        raise renewal.error("rotate_key", "a renewed CA has a new key; take it out")
    renew_at = _part(renewal, "threshold", EdgeCa().renew_at)
    renewal.notice("retry", "has no effect: renewal is tried every few minutes until it succeeds")
    renewal.finish()
    section.finish()
    return EdgeCa(
        certificate=certificate, private_key=private_key, lifetime_days=days, renew_at=renew_at
    )


def _part(section: Section, key: str, default: float) -> float:
    text = section.text(key)
    if text is None:
        return default
    found = _PERCENT.fullmatch(text.strip())
    if found is None or not 0 < int(found[1]) < 100:
        raise section.error(key, 'must be a percentage, such as "80%"')
    return int(found[1]) / 100
