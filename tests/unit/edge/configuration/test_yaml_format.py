from __future__ import annotations

from pathlib import Path

import pytest

from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    Network,
    Reprovisioning,
    SymmetricKeyAttestation,
    TpmAttestation,
    X509Attestation,
)
from unit.edge.configuration.conftest import KEY, refusal, yaml

NAME = "/etc/iotedge/config.yaml"
DPS = f"""\
provisioning:
  source: "dps"
  global_endpoint: "https://dps.example.org"
  scope_id: "0ne00000001"
  attestation:
    method: "symmetric_key"
    registration_id: "gateway-01"
    symmetric_key: "{KEY}"
"""
MANUAL = f"""\
provisioning:
  source: manual
  device_connection_string: "HostName=hub.example.org;DeviceId=d1;SharedAccessKey={KEY}"
"""


def test_dps_with_a_symmetric_key() -> None:
    found = yaml(DPS).settings
    assert found.provisioning == DpsProvisioning(
        endpoint="https://dps.example.org",
        id_scope="0ne00000001",
        attestation=SymmetricKeyAttestation(
            registration_id="gateway-01", key=b"sixteen bytes or more"
        ),
    )
    assert found.home == Path("/var/lib/iotedge")
    assert found.reprovisioning is Reprovisioning.ALWAYS_ON_STARTUP
    assert found.hostname == "machine"


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("  always_reprovision_on_startup: false\n", Reprovisioning.ON_ERROR_ONLY),
        (
            "  always_reprovision_on_startup: false\n  dynamic_reprovisioning: true\n",
            Reprovisioning.DYNAMIC,
        ),
    ],
)
def test_when_to_provision_again(text: str, mode: Reprovisioning) -> None:
    assert yaml(DPS + text).settings.reprovisioning is mode


def test_manual() -> None:
    expected = ManualProvisioning(
        hub_host="hub.example.org", device_id="d1", key=b"sixteen bytes or more"
    )
    assert yaml(MANUAL).settings.provisioning == expected
    nested = f"""\
provisioning:
  source: manual
  authentication:
    method: device_connection_string
    device_connection_string: "HostName=hub.example.org;DeviceId=d1;SharedAccessKey={KEY}"
"""
    assert yaml(nested).settings.provisioning == expected


def test_manual_with_a_certificate() -> None:
    text = """\
provisioning:
  source: manual
  authentication:
    method: x509
    iothub_hostname: hub.example.org
    device_id: d1
    identity_cert: /c.pem
    identity_pk: file:///c.key
"""
    assert yaml(text).settings.provisioning == ManualProvisioning(
        hub_host="hub.example.org",
        device_id="d1",
        certificate=Path("/c.pem"),
        private_key=Path("/c.key"),
    )


def test_x509_and_tpm() -> None:
    head = DPS.partition("  attestation")[0]
    x509 = "  attestation:\n    method: x509\n    identity_cert: /c\n    identity_pk: /k\n"
    found = yaml(head + x509).settings.provisioning
    assert isinstance(found, DpsProvisioning)
    assert found.attestation == X509Attestation(
        registration_id=None, certificate=Path("/c"), private_key=Path("/k")
    )
    legacy = yaml(head + "  registration_id: r1\n").settings.provisioning
    assert isinstance(legacy, DpsProvisioning)
    assert legacy.attestation == TpmAttestation(registration_id="r1")


def test_everything_else_in_any_case() -> None:
    text = f"""{DPS}
Hostname: gateway
HOMEDIR: /srv/edge
certificates:
  device_ca_cert: file:///ca.pem
  device_ca_pk: /ca.key
  trusted_ca_certs: /root.pem
  auto_generated_ca_lifetime_days: 30
agent:
  name: edgeAgent
  type: docker
  env:
    UpstreamProtocol: Mqtt
    RuntimeLogLevel:
  config:
    image: azureiotedge-agent:1.1
    auth: {{}}
connect:
  management_uri: unix:///var/run/iotedge/mgmt.sock
  workload_uri: unix:///var/run/iotedge/workload.sock
listen:
  management_uri: fd://iotedge.mgmt.socket
  workload_uri: fd://iotedge.socket
moby_runtime:
  uri: unix:///var/run/docker.sock
  network:
    name: edge
    ipv6: true
    ipam:
      config:
        - subnet: 172.20.0.0/16
"""
    text = text.replace("    RuntimeLogLevel:\n", "")
    found = yaml(text)
    settings = found.settings
    assert found.notices == ()
    assert (settings.hostname, settings.home) == ("gateway", Path("/srv/edge"))
    assert settings.edge_ca.certificate == Path("/ca.pem")
    assert settings.edge_ca.private_key == Path("/ca.key")
    assert settings.edge_ca.lifetime_days == 30
    assert settings.trust_bundle == Path("/root.pem")
    assert settings.agent.env == {"UpstreamProtocol": "Mqtt"}
    assert settings.engine.network == Network(
        name="edge", ipv6=True, ipam=({"Subnet": "172.20.0.0/16"},)
    )
    assert settings.sockets.management == "unix:///var/run/iotedge/mgmt.sock"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: provisioning is missing"),
        ("- a", ":1: must be keys with values"),
        (DPS + "parent_hostname: a\n", "parent_hostname: a device below another cannot use DPS"),
        ("a: [", ":1: not YAML"),
        ("a: {\n\n\tb", ":3: not YAML"),
        ("provisioning:\n  source: external\n", ":2: provisioning.source: external provisioning"),
        (MANUAL + "hostnam: x\n", ":4: hostnam: there is no such key; did you mean hostname?"),
        (MANUAL + "hostname: a\nhostname: b\n", ":5: hostname: given twice"),
        (MANUAL + "a: &x [1]\nb: *x\n", ":4: b: no aliases"),
        (MANUAL + "hostname: !!python/name:os.system x\n", ":4: hostname: not a plain value"),
        (DPS.replace(KEY, "x"), ":8: provisioning.attestation.symmetric_key: A symmetric key"),
        (DPS + "  registration_id: r\n", ":9: provisioning.registration_id: belongs into"),
        (MANUAL + "certificates:\n  device_ca_cert: /c\n", ":4: certificates: device_ca_cert and"),
        (
            MANUAL + "listen:\n  management_uri: http://localhost:1\n",
            ":5: listen.management_uri: over HTTP nobody could tell who calls",
        ),
    ],
)
def test_a_bad_file_names_line_and_key(text: str, said: str) -> None:
    message = refusal(yaml, text)
    assert message.startswith(NAME)
    assert said in message


def test_watchdog_is_told() -> None:
    (notice,) = yaml(MANUAL + "watchdog:\n  max_retries: 3\n").notices
    assert notice == f"{NAME}:4: watchdog: has no effect: the agent is part of this runtime"
