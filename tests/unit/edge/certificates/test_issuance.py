from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.clock import ManualClock, SystemClock
from muster.edge.certificates.issuance import IssuedCertificate
from muster.errors import InvalidArgumentError
from unit.edge.certificates.conftest import DAY, authority, handshake, issuer

Names = x509.SubjectAlternativeName


def _leaf(issued: IssuedCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(issued.chain.encode())[0]


def _names(issued: IssuedCertificate) -> list[str]:
    names = _leaf(issued).extensions.get_extension_for_class(Names).value
    return [str(name.value) for name in names]


def test_a_strict_client_accepts_a_server_of_the_device(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().time())
    made = issuer(authority(tmp_path / "ca", clock), clock)
    issued = made.server("$edgeHub", "Gateway.example.org")
    anchors = made.trust_bundle()
    handshake(issued, anchors, "gateway.example.org", tmp_path)
    handshake(issued, anchors, "edgeHub", tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(issued, anchors, "other.example.org", tmp_path)
    handshake(made.server("m1", "127.0.0.1"), anchors, "127.0.0.1", tmp_path)


def test_it_still_does_after_the_ca_was_renewed(tmp_path: Path) -> None:
    now = SystemClock().time()
    clock = ManualClock(now - 85 * DAY)
    made = issuer(authority(tmp_path / "ca", clock), clock)
    old = made.server("$edgeHub", "gateway")
    trusted_since_then = made.trust_bundle()
    clock.advance(85 * DAY)
    assert old.is_due(clock.now())
    handshake(made.server("$edgeHub", "gateway"), trusted_since_then, "gateway", tmp_path)


def test_a_server_certificate(tmp_path: Path, clock: ManualClock) -> None:
    issued = issuer(authority(tmp_path, clock), clock).server("$edgeHub", "10.0.0.5")
    leaf = _leaf(issued)
    assert _names(issued) == ["10.0.0.5", "edgehub"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert issued.chain.count("BEGIN CERTIFICATE") == 2
    assert issued.expires - clock.now() == pytest.approx(
        dt.timedelta(days=30), abs=dt.timedelta(seconds=1)
    )
    assert issued.key.startswith("-----BEGIN PRIVATE KEY-----")
    assert issued.key not in repr(issued)
    assert not issued.is_due(clock.now())
    assert issued.is_due(clock.now() + dt.timedelta(days=28))
    assert issued.is_due(clock.now() - dt.timedelta(days=28))


@pytest.mark.parametrize(("asked_days", "granted_days"), [(1, 1), (90, 30), (-5000, 30), (0, 30)])
def test_sooner_is_granted_later_and_the_past_are_not(
    asked_days: int, granted_days: int, tmp_path: Path, clock: ManualClock
) -> None:
    until = clock.now() + dt.timedelta(days=asked_days)
    issued = issuer(authority(tmp_path, clock), clock).server("m", "m", until)
    assert round((issued.expires - clock.now()) / dt.timedelta(days=1)) == granted_days


def test_nothing_outlives_its_ca(tmp_path: Path, clock: ManualClock) -> None:
    ca = authority(tmp_path, clock)
    made = issuer(ca, clock)
    ca.issuer()
    clock.advance(71 * DAY)
    assert made.server("m", "m").expires == ca.issuer().certificate.not_valid_after_utc


def test_an_identity_certificate(tmp_path: Path, clock: ManualClock) -> None:
    issued = issuer(authority(tmp_path, clock), clock).identity("temperature")
    leaf = _leaf(issued)
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "temperature"
    assert _names(issued) == ["azureiot://hub.example.org/devices/d1/modules/temperature"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.expires - clock.now() <= dt.timedelta(hours=2)


def test_names(tmp_path: Path, clock: ManualClock) -> None:
    made = issuer(authority(tmp_path, clock), clock)
    assert _names(made.server("a" * 100, "gateway")) == ["gateway"]
    long = f"{'a' * 60}.{'b' * 60}.example.org"
    assert _names(made.server("m", long)) == [long, "m"]
    with pytest.raises(InvalidArgumentError, match="neither a host name nor an IP address"):
        made.server("m", "no host")


def test_the_trust_bundle(tmp_path: Path, clock: ManualClock) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority(tmp_path / "other", clock).issuer().anchors)
    made = issuer(authority(tmp_path / "ca", clock), clock, bundle)
    found = x509.load_pem_x509_certificates(made.trust_bundle().encode())
    assert len(found) == 2
    bundle.unlink()
    with pytest.raises(FileNotFoundError):
        made.trust_bundle()
