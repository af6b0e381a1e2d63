"""Every message about the certificates that were brought, made by breaking them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from muster.clock import ManualClock
from muster.edge.check import certificate_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from muster.edge.check.run import CHECKS, run
from muster.edge.check.surroundings import Surroundings
from support.certificates import ClientCertificate
from unit.edge.certificates.conftest import authority
from unit.edge.check.conftest import Device, fine, problem

WARNING = Result.WARNING
DAY_S = dt.timedelta(days=1).total_seconds()
X509 = """
homedir = "{home}"
[provisioning]
source = "dps"
global_endpoint = "https://dps.invalid"
id_scope = "0ne1"
[provisioning.attestation]
method = "x509"
registration_id = "r"
"""


def test_trust_bundles(device: Device, tmp_path: Path) -> None:
    assert checks.trust_bundle(device.around()) == IGNORED
    bundle = tmp_path / "ca.pem"
    device.write(top=f'trust_bundle_cert = "file://{bundle}"\n')
    what, _ = problem(checks.trust_bundle, device.around(), Cause.TRUST_BUNDLE_UNUSABLE)
    assert what == f"trust_bundle_cert {bundle} cannot be used: No such file or directory"
    bundle.write_text("nothing")
    what, fix = problem(checks.trust_bundle, device.around(), Cause.TRUST_BUNDLE_UNUSABLE)
    assert "cannot be used" in what
    assert "PEM" in fix
    bundle.write_bytes(authority(tmp_path / "x", device.clock).issuer().anchors)
    fine(checks.trust_bundle, device.around())


def test_one_missing_file_is_one_error(device: Device) -> None:
    """What hangs on it says which check to look at."""
    device.write(
        '[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n',
        top='trust_bundle_cert = "file:///nonexistent/ca.pem"\n',
    )
    device.options["hub_host"] = "hub.invalid"
    found = list(run(CHECKS, device.around(read=False)))
    wrong = [each.check.id for each in found if each.outcome.result is Result.ERROR]
    # Nobody listens here, which is another matter.
    assert wrong == ["connect-management-uri", "trust-bundle"]
    said = {
        each.check.id: each.outcome.details[0]
        for each in found
        if each.outcome.cause is Cause.EARLIER_CHECK
    }
    for root, ids in (
        ("connect-management-uri", ["config-up-to-date", "aziot-edge-version", "proxy-settings"]),
        ("connect-management-uri", ["edge-hub", "process-limits"]),
        ("trust-bundle", ["host-connect-dps-endpoint", "dps-registration"]),
        ("trust-bundle", [f"host-connect-iothub-{each}" for each in ("https", "mqtt", "amqp")]),
        ("trust-bundle", ["iothub-authentication"]),
        ("container-engine-uri", [each.id for each in CHECKS if "container-con" in each.id]),
        ("container-engine-uri", [each.id for each in CHECKS if "container-def" in each.id]),
    ):
        for each in ids:
            text = f"nothing is to be learnt here before {root} passes"
            assert said.pop(each) == text, each
    assert said == {}


def test_the_certificate_of_the_device(device: Device, tmp_path: Path) -> None:
    assert checks.identity_certificate(device.around()) == IGNORED
    path, key = tmp_path / "device.pem", tmp_path / "device.key"
    device.write(f'identity_cert = "file://{path}"\nidentity_pk = "file://{key}"\n', base=X509)
    around = device.around()
    what, _ = problem(checks.identity_certificate, around, Cause.IDENTITY_CERTIFICATE_UNUSABLE)
    assert f"identity_cert {path} cannot be used" in what
    path.write_text("nothing")
    problem(checks.identity_certificate, around, Cause.IDENTITY_CERTIFICATE_UNUSABLE)
    one, other = ClientCertificate.make(tmp_path), ClientCertificate.make(tmp_path)
    path.write_text(one.certificate)
    what, _ = problem(checks.identity_certificate, around, Cause.IDENTITY_KEY_UNUSABLE)
    assert what.endswith("cannot be used with identity_cert: No such file or directory")
    key.write_text(other.key)
    what, _ = problem(checks.identity_certificate, around, Cause.IDENTITY_KEY_UNUSABLE)
    assert what.endswith("cannot be used with identity_cert: KEY_VALUES_MISMATCH")
    key.write_text(one.key)
    what, _ = problem(checks.identity_certificate, around, Cause.CERTIFICATE_ENDED)
    assert what == f"the device's certificate {path} ended on 2020-01-02"


@pytest.fixture
def ages(device: Device, tmp_path: Path) -> Path:
    """Return a directory of CAs with 90 days to live: `good`, `ending`, `ended`, `new`."""
    for name, begun in (("good", 0), ("ending", -85), ("ended", -95), ("new", 10)):
        clock = ManualClock(device.clock.time() + begun * DAY_S)
        authority(tmp_path / name, clock).issuer()
    return tmp_path


def test_the_life_of_the_device_s_certificate(device: Device, ages: Path) -> None:
    def of(name: str) -> Surroundings:
        certificate, key = ages / name / "ca.pem", ages / name / "ca.key"
        files = f'identity_cert = "file://{certificate}"\nidentity_pk = "file://{key}"\n'
        device.write(files, base=X509)
        return device.around()

    fine(checks.identity_certificate, of("good"))
    what, _ = problem(
        checks.identity_certificate, of("ending"), Cause.CERTIFICATE_ENDS_SOON, WARNING
    )
    assert what.startswith(f"the device's certificate {ages}/ending/ca.pem ends on ")
    what, _ = problem(checks.identity_certificate, of("ended"), Cause.CERTIFICATE_ENDED)
    assert " ended on " in what
    what, fix = problem(checks.identity_certificate, of("new"), Cause.CERTIFICATE_TOO_NEW)
    assert "is valid only from" in what
    assert "clock" in fix


def test_the_life_of_a_ca(device: Device, ages: Path) -> None:
    assert checks.edge_ca(device.around()) == IGNORED
    device.write(_files(ages / "good"))
    fine(checks.edge_ca, device.around())
    device.write(_files(ages / "ending"))
    what, _ = problem(checks.edge_ca, device.around(), Cause.CERTIFICATE_ENDS_SOON, WARNING)
    assert what.startswith("the CA of edge_ca ends on ")
    for name in ("ended", "new"):
        device.write(_files(ages / name))
        what, fix = problem(checks.edge_ca, device.around(), Cause.EDGE_CA_OUT_OF_TIME)
        assert what.startswith(f"edge_ca: The CA in {ages}/{name}/ca.pem is valid from ")
        assert "date -u" in fix


def test_a_ca_that_cannot_be_used(device: Device, tmp_path: Path) -> None:
    authority(tmp_path / "x", device.clock).issuer()
    (tmp_path / "x" / "ca.key").chmod(0o640)
    device.write(_files(tmp_path / "x"))
    what, fix = problem(checks.edge_ca, device.around(), Cause.EDGE_CA_UNUSABLE)
    assert what.startswith("edge_ca: The key file")
    assert "take both out" in fix


def _files(directory: Path) -> str:
    return f'[edge_ca]\ncert = "file://{directory}/ca.pem"\npk = "file://{directory}/ca.key"\n'
