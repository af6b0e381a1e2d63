"""From settings to the text of a `config.toml`; `load` reads the same settings back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from muster.auth import symmetric_keys
from muster.edge.settings import (
    DEFAULT_HOME,
    AgentSettings,
    ContainerEngine,
    DpsProvisioning,
    EdgeCa,
    EdgeHubSettings,
    ManualProvisioning,
    Network,
    Reprovisioning,
    Settings,
    Sockets,
    SymmetricKeyAttestation,
    X509Attestation,
)

if TYPE_CHECKING:
    from pathlib import Path


def render(settings: Settings) -> str:
    """Return the text of a file that says this and no more. It contains the device's key."""
    tables: dict[str, dict[str, Any]] = {"": _top(settings)}
    tables |= _provisioning(settings.provisioning)
    tables |= _agent(settings.agent)
    tables |= _sockets(settings.sockets)
    tables["edge_hub"] = {
        name: getattr(settings.edge_hub, name)
        for name in ("address", "mqtt_port", "https_port", "amqp_port")
        if getattr(settings.edge_hub, name) != getattr(EdgeHubSettings(), name)
    }
    tables["moby_runtime"] = _engine(settings.engine)
    tables["edge_ca"] = _edge_ca(settings.edge_ca)
    tables["additional_info"] = settings.additional_info
    blocks = []
    for name, table in tables.items():
        lines = [f"[{name}]"] if name else []
        lines += [f"{_text(key)} = {_inline(value)}" for key, value in table.items()]
        if table:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _top(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {"hostname": settings.hostname}
    if settings.parent_hostname is not None:
        found["parent_hostname"] = settings.parent_hostname
    if settings.home != DEFAULT_HOME:
        found["homedir"] = str(settings.home)
    if settings.trust_bundle is not None:
        found["trust_bundle_cert"] = _uri(settings.trust_bundle)
    if settings.reprovisioning is not Reprovisioning.DYNAMIC:
        found["auto_reprovisioning_mode"] = str(settings.reprovisioning)
    if not settings.engine.elevated:
        found["allow_elevated_docker_permissions"] = False
    return found


def _provisioning(
    source: DpsProvisioning | ManualProvisioning | None,
) -> dict[str, dict[str, Any]]:
    if source is None:
        return {"provisioning": {"source": "none"}}
    if isinstance(source, ManualProvisioning):
        inner = (
            {"method": "x509", **_identity(source.certificate, source.private_key)}
            if source.key is None
            else {"method": "sas", "device_id_pk": _secret(source.key)}
        )
        outer = {"iothub_hostname": source.hub_host, "device_id": source.device_id}
        return {
            "provisioning": {"source": "manual", **outer},
            "provisioning.authentication": inner,
        }
    dps: dict[str, Any] = {"global_endpoint": source.endpoint, "id_scope": source.id_scope}
    if source.payload is not None:
        dps["payload"] = {"uri": _uri(source.payload)}
    return {
        "provisioning": {"source": "dps", **dps},
        "provisioning.attestation": _attestation(source),
    }


def _attestation(source: DpsProvisioning) -> dict[str, Any]:
    proof = source.attestation
    found: dict[str, Any] = {}
    if proof.registration_id is not None:
        found["registration_id"] = proof.registration_id
    if isinstance(proof, SymmetricKeyAttestation):
        return {"method": "symmetric_key", **found, "symmetric_key": _secret(proof.key)}
    if isinstance(proof, X509Attestation):
        return {"method": "x509", **found, **_identity(proof.certificate, proof.private_key)}
    return {"method": "tpm", **found}


def _identity(certificate: Path | None, private_key: Path | None) -> dict[str, Any]:
    assert certificate is not None  # noqa: S101 - for the type checker
    assert private_key is not None  # noqa: S101 - likewise
    return {"identity_cert": _uri(certificate), "identity_pk": _uri(private_key)}


def _agent(agent: AgentSettings) -> dict[str, dict[str, Any]]:
    config = {} if agent.image is None else {"image": agent.image}
    return {"agent.config": config, "agent.env": agent.env}


def _sockets(sockets: Sockets) -> dict[str, dict[str, Any]]:
    usual = Sockets()
    return {
        "listen": {
            f"{name}_uri": getattr(sockets, name)
            for name in ("management", "workload")
            if getattr(sockets, name) != getattr(usual, name)
        },
        "iotedge_max_requests": {
            name: getattr(sockets, f"{name}_requests")
            for name in ("management", "workload")
            if getattr(sockets, f"{name}_requests") != getattr(usual, f"{name}_requests")
        },
    }


def _engine(engine: ContainerEngine) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if engine.uri != ContainerEngine().uri:
        found["uri"] = engine.uri
    if engine.network != Network():
        network: dict[str, Any] = {"name": engine.network.name, "ipv6": engine.network.ipv6}
        names = {"Gateway": "gateway", "Subnet": "subnet", "IPRange": "ip_range"}
        if engine.network.ipam:
            network["ipam"] = {
                "config": [
                    {names[key]: value for key, value in entry.items()}
                    for entry in engine.network.ipam
                ]
            }
        found["network"] = network
    return found


def _edge_ca(edge_ca: EdgeCa) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if edge_ca.certificate is not None and edge_ca.private_key is not None:
        found = {"cert": _uri(edge_ca.certificate), "pk": _uri(edge_ca.private_key)}
    if edge_ca.lifetime_days != EdgeCa().lifetime_days:
        found["auto_generated_edge_ca_expiry_days"] = edge_ca.lifetime_days
    if edge_ca.renew_at != EdgeCa().renew_at:
        found["auto_renew"] = {"threshold": f"{round(edge_ca.renew_at * 100)}%"}
    return found


def _secret(key: bytes) -> dict[str, str]:
    return {"value": symmetric_keys.encode(key)}


def _uri(path: Path) -> str:
    return "file://" + quote(str(path))


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{_text(key)} = {_inline(each)}" for key, each in value.items())
            + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return _text(value, quoted=True) if isinstance(value, str) else json.dumps(value)


def _text(text: str, *, quoted: bool = False) -> str:
    if not quoted and text.replace("_", "").replace("-", "").isalnum() and text.isascii():
        return text
    # Strings of JSON are strings of TOML, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
