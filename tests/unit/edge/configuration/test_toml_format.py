from __future__ import annotations

from pathlib import Path

import pytest

from muster.edge.settings import (
    DpsProvisioning,
    EdgeCa,
    ImageCollection,
    ManualProvisioning,
    Network,
    Reprovisioning,
    Settings,
    SymmetricKeyAttestation,
    TpmAttestation,
    X509Attestation,
)
from unit.edge.configuration.conftest import KEY, refusal, toml

NAME = "/etc/aziot/config.toml"
DPS = f"""\
[provisioning]
source = "dps"
global_endpoint = "https://dps.example.org:8443/"
id_scope = "0ne00000001"

[provisioning.attestation]
method = "symmetric_key"
registration_id = "gateway-01"
symmetric_key = {{ value = "{KEY}" }}
"""
MANUAL = f"""\
[provisioning]
source = "manual"
connection_string = "HostName=hub.example.org;DeviceId=d1;SharedAccessKey={KEY}"
"""
X509 = """\
[provisioning]
source = "dps"
global_endpoint = "https://dps.example.org"
id_scope = "0ne00000001"
[provisioning.attestation]
method = "x509"
identity_cert = "file:///var/secrets/device%20id.pem"
identity_pk = "file:///var/secrets/device.key"
"""


def test_dps_with_a_symmetric_key() -> None:
    found = toml(DPS).settings
    assert found == Settings(
        source=Path(NAME),
        hostname="machine",
        provisioning=DpsProvisioning(
            endpoint="https://dps.example.org:8443",
            id_scope="0ne00000001",
            attestation=SymmetricKeyAttestation(
                registration_id="gateway-01", key=b"sixteen bytes or more"
            ),
        ),
    )
    assert KEY not in repr(found)
    assert "sixteen" not in repr(found)


def test_a_connection_string() -> None:
    assert toml(MANUAL).settings.provisioning == ManualProvisioning(
        hub_host="hub.example.org", device_id="d1", key=b"sixteen bytes or more"
    )


def test_manual_with_its_parts() -> None:
    text = f"""
provisioning.source = "manual"
provisioning.iothub_hostname = "hub.example.org:8443"
provisioning.device_id = "d1"
provisioning.authentication = {{ method = "sas", device_id_pk = {{ value = "{KEY}" }} }}
"""
    assert toml(text).settings.provisioning == ManualProvisioning(
        hub_host="hub.example.org:8443", device_id="d1", key=b"sixteen bytes or more"
    )


def test_manual_with_a_certificate() -> None:
    text = """
[provisioning]
source = "manual"
iothub_hostname = "hub.example.org"
device_id = "d1"
[provisioning.authentication]
method = "x509"
identity_cert = "file:///c.pem"
identity_pk = "file:///c.key"
"""
    assert toml(text).settings.provisioning == ManualProvisioning(
        hub_host="hub.example.org",
        device_id="d1",
        certificate=Path("/c.pem"),
        private_key=Path("/c.key"),
    )


def test_dps_with_a_certificate_and_no_registration_id() -> None:
    found = toml(X509).settings.provisioning
    assert isinstance(found, DpsProvisioning)
    assert found.attestation == X509Attestation(
        registration_id=None,
        certificate=Path("/var/secrets/device id.pem"),
        private_key=Path("/var/secrets/device.key"),
    )


def test_dps_with_a_tpm_and_a_payload() -> None:
    text = DPS.partition("[provisioning.attestation]")[0] + (
        'payload = { uri = "file:///p.json" }\n'
        "[provisioning.attestation]\nmethod = 'tpm'\nregistration_id = 'r'\n"
    )
    found = toml(text).settings.provisioning
    assert isinstance(found, DpsProvisioning)
    assert found.attestation == TpmAttestation(registration_id="r")
    assert found.payload == Path("/p.json")


def test_no_provisioning() -> None:
    assert toml("[provisioning]\nsource = 'none'\n").settings.provisioning is None


def test_everything_else() -> None:
    text = f"""
hostname = "gateway.example.org"
homedir = "/srv/edge"
trust_bundle_cert = "file:///etc/ca.pem"
allow_elevated_docker_permissions = false
auto_reprovisioning_mode = "alwaysonstartup"
{DPS}
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"
[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.5"
createOptions = {{ }}
[agent.env]
UpstreamProtocol = "MqttWs"
MaxRestartCount = 5
SendRuntimeQualityTelemetry = false
[connect]
management_uri = "unix:///run/m.sock"
workload_uri = "unix:///run/w.sock"
[listen]
management_uri = "fd://aziot-edged.mgmt.socket"
workload_uri = "unix:///srv/w.sock"
[edge_ca]
cert = "file:///ca.pem"
pk = "file:///ca.key"
auto_generated_edge_ca_expiry_days = 30
auto_renew = {{ rotate_key = true, threshold = "50%" }}
[moby_runtime]
uri = "unix:///run/docker.sock"
[moby_runtime.network]
name = "edge"
ipv6 = true
[[moby_runtime.network.ipam.config]]
gateway = "172.20.0.1"
subnet = "172.20.0.0/16"
ip_range = "172.20.5.0/24"
[iotedge_max_requests]
management = 7
[additional_info]
site = "plant 7"
"""
    found = toml(text)
    settings = found.settings
    assert found.notices == ()
    assert settings.hostname == "gateway.example.org"
    assert settings.home == Path("/srv/edge")
    assert settings.trust_bundle == Path("/etc/ca.pem")
    assert not settings.engine.elevated
    assert settings.reprovisioning is Reprovisioning.ALWAYS_ON_STARTUP
    assert settings.agent.image == "mcr.microsoft.com/azureiotedge-agent:1.5"
    assert settings.agent.env == {
        "UpstreamProtocol": "MqttWs",
        "MaxRestartCount": "5",
        "SendRuntimeQualityTelemetry": "false",
    }
    assert settings.sockets.management == "unix:///run/m.sock"
    assert settings.sockets.workload == "unix:///srv/w.sock"
    assert settings.sockets.management_requests == 7
    assert settings.edge_ca == EdgeCa(
        certificate=Path("/ca.pem"), private_key=Path("/ca.key"), lifetime_days=30, renew_at=0.5
    )
    assert settings.engine.uri == "unix:///run/docker.sock"
    assert settings.engine.network == Network(
        name="edge",
        ipv6=True,
        ipam=({"Gateway": "172.20.0.1", "Subnet": "172.20.0.0/16", "IPRange": "172.20.5.0/24"},),
    )
    assert settings.additional_info == {"site": "plant 7"}


def test_a_network_may_be_its_name() -> None:
    found = toml(DPS + "[moby_runtime]\nnetwork = 'plant'\n").settings
    assert found.engine.network == Network(name="plant")


def test_an_empty_image_of_the_agent_is_none() -> None:
    assert toml(DPS + '[agent.config]\nimage = ""\n').settings.agent.image is None


def test_image_collection() -> None:
    text = (
        "[image_garbage_collection]\nenabled = false\ncleanup_recurrence = '2 days'\n"
        "image_age_cleanup_threshold = '1d 12h'\ncleanup_time = '3:30'\n"
    )
    assert toml(DPS).settings.image_collection == ImageCollection(
        enabled=True, every_days=1, age_s=604_800, at_minute=0
    )
    assert toml(DPS + text).settings.image_collection == ImageCollection(
        enabled=False, every_days=2, age_s=129_600, at_minute=210
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cleanup_recurrence = '36h'", "must be whole days"),
        ("cleanup_recurrence = '10s'", "must be whole days"),
        ("cleanup_recurrence = '0d'", "must be whole days"),
        ("image_age_cleanup_threshold = '7'", "must be a time such as"),
        ("image_age_cleanup_threshold = '7 moons'", "must be a time such as"),
        ("image_age_cleanup_threshold = 'd7d'", "must be a time such as"),
        ("image_age_cleanup_threshold = '40000d'", "must be a time such as"),
        ("cleanup_time = '24:00'", "must be a time of day"),
        ("age = '7d'", "there is no such key"),
    ],
)
def test_image_collection_that_cannot_be(line: str, said: str) -> None:
    message = refusal(toml, DPS + "[image_garbage_collection]\n" + line)
    assert f": image_garbage_collection.{line.partition(' ')[0]}: {said}" in message


def test_a_parent() -> None:
    found = toml("local_gateway_hostname = 'above.example.org'\n" + MANUAL).settings
    assert found.parent_hostname == "above.example.org"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("[watchdog]\nmax_retries = 'infinite'", "watchdog"),
        ("[aziot_max_requests]\nkeyd = 5", "aziot_max_requests"),
        ("[agent.config]\ncreateOptions = { HostConfig = {} }", "agent.config.createOptions"),
    ],
)
def test_keys_with_nothing_to_act_on_are_told(key: str, line: str) -> None:
    (notice,) = toml(DPS + key).notices
    assert notice.startswith(f"{NAME}:1")
    assert f": {line}: has no effect" in notice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: [provisioning] is missing"),
        ("a = ", "not TOML: Invalid value (at end of document)"),
        ("[provisioning]\n", "1: provisioning: source is missing: manual, dps or none"),
        (
            "[provisioning]\nsource = 'x'",
            "2: provisioning.source: must be one of manual, dps, none",
        ),
        (
            DPS.replace("id_scope", "scope_id"),
            "1: provisioning: id_scope is missing",
        ),
        (DPS + "identity_cert = 1", "10: provisioning.attestation.identity_cert: there is no"),
        (
            DPS.replace("id_scope", 'scope = "x"\nid_scope'),
            "4: provisioning.scope: there is no such key; did you mean id_scope?",
        ),
        (
            DPS.replace(KEY, "c2hvcnQ="),
            "9: provisioning.attestation.symmetric_key.value: A symmetric key must be 16 to 64",
        ),
        (
            DPS.replace("{ value =", "{ values ="),
            "9: provisioning.attestation.symmetric_key.values",
        ),
        (
            DPS.replace("https:", "http:"),
            "3: provisioning.global_endpoint: must be https://HOST or https://HOST:PORT",
        ),
        (
            DPS.replace("https://dps", "https://dps..x y"),
            "3: provisioning.global_endpoint: must be",
        ),
        (DPS.replace("https://dps", "https://dps%00"), "3: provisioning.global_endpoint: must be"),
        (DPS.replace("0ne00000001", "0ne/1"), "4: provisioning.id_scope: must be letters"),
        (DPS.replace("gateway-01", "-"), "8: provisioning.attestation.registration_id: must be"),
        (MANUAL.replace("DeviceId=d1;", ""), "3: provisioning.connection_string: The connection"),
        ("hostname = 'a b'\n" + DPS, "1: hostname: must be a host name or an IP address"),
        ("hostname = 5\n" + DPS, "1: hostname: must be text in quotes"),
        (f"hostname = '{'a' * 65}'\n" + DPS, "1: hostname: must be at most 64 characters, is 65"),
        (
            "trust_bundle_cert = '/ca.pem'\n" + DPS,
            "1: trust_bundle_cert: must be the URI of a file",
        ),
        (
            DPS + "[edge_ca]\nmethod = 'est'",
            "11: edge_ca.method: certificates from EST or a local CA cannot be had",
        ),
        (DPS + "[edge_ca]\ncert = 'file:///c'", "10: edge_ca: cert and pk belong together"),
        (
            DPS + "[moby_runtime]\nuri = 'http://engine:port'\n",
            "11: moby_runtime.uri: must be unix:///path/of.sock or http://host:port",
        ),
        (
            DPS + "[moby_runtime]\nuri = 'http://[engine'\n",
            "11: moby_runtime.uri: must be unix:///path/of.sock or http://host:port",
        ),
        (
            DPS + "[moby_runtime]\nuri = 'http://'\n",
            "11: moby_runtime.uri: must be unix:///path/of.sock or http://host:port",
        ),
        (
            DPS + "[moby_runtime]\ncontent_trust = {}",
            "11: moby_runtime.content_trust: signed images",
        ),
        (DPS + "[tpm]\ntcti = 'x'", "10: tpm: settings of a TPM cannot be honoured"),
        (DPS + "[preloaded_keys]\na = 'x'", "10: preloaded_keys: name each key where"),
        (DPS + "[agent]\nname = 'x'", "11: agent.name: must be edgeAgent"),
        (DPS + "[agent.env]\nA = { }", "11: agent.env.A: must be text"),
        (DPS + "[listen]\nworkload_uri = 'http://0.0.0.0:1'", "11: listen.workload_uri: over HTTP"),
        (
            DPS + "[moby_runtime]\nnetwork = { name = 'n', ipam = { config = [ { a = 1 } ] } }",
            "11: moby_runtime.network.ipam.config[0].a: there is no such key",
        ),
        (
            DPS + "[moby_runtime.network]\nname = 'n'\n[[moby_runtime.network.ipam.config]]\n"
            "subnet = '1'\n[[moby_runtime.network.ipam.config]]\nsubnet = [\n1\n]\n",
            "15: moby_runtime.network.ipam.config[1].subnet: must be text in quotes",
        ),
        (
            "parent_hostname = 'a'\n" + DPS,
            "1: parent_hostname: a device below another cannot use DPS",
        ),
        (
            "local_gateway_hostname = 'a'\n" + DPS,
            "1: local_gateway_hostname: a device below another cannot use DPS",
        ),
        (
            DPS + "[iotedge_max_requests]\nmanagement = 0",
            "11: iotedge_max_requests.management: must",
        ),
        ("auto_reprovisioning_mode = 'x'\n" + DPS, "1: auto_reprovisioning_mode: must be one of"),
    ],
)
def test_a_bad_file_names_line_and_key(text: str, said: str) -> None:
    message = refusal(toml, text)
    assert message.startswith(f"{NAME}:")
    assert said in message


def test_lines_behind_a_long_text_are_right() -> None:
    text = 'hostname = """\na\n[provisioning]\nb"""\n' + DPS
    assert refusal(toml, text).startswith(f"{NAME}:1: hostname")
    assert refusal(toml, DPS + '\n# x\nwrong = """\n\n"""').startswith(f"{NAME}:12: ")
