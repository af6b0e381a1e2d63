from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from muster.auth import certificate_parts as parts
from muster.clock import ManualClock
from muster.edge.settings import EdgeCa
from muster.errors import InvalidArgumentError, UnavailableError
from unit.edge.certificates.conftest import DAY, authority

Usage = x509.KeyUsage


def test_what_is_made(tmp_path: Path, clock: ManualClock) -> None:
    home = tmp_path / "certificates"
    made = authority(home, clock)
    assert not made.is_brought
    found = made.issuer().certificate
    assert found.subject.rfc4514_string() == "CN=aziot-edge CA d1"
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = found.extensions.get_extension_for_class(Usage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_cert_sign
    assert found.not_valid_after_utc - clock.now() == pytest.approx(
        dt.timedelta(days=90), abs=dt.timedelta(seconds=1)
    )
    root = x509.load_pem_x509_certificate(made.issuer().anchors)
    found.verify_directly_issued_by(root)
    assert root.not_valid_before_utc.year == 1970
    assert root.not_valid_after_utc.year == 9999
    for key in home.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "***" in repr(made.issuer())


def test_it_is_the_same_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    first = authority(tmp_path, clock).issuer()
    again = authority(tmp_path, clock).issuer()
    assert again.certificate == first.certificate
    assert again.anchors == first.anchors


@pytest.mark.parametrize("step", [80 * DAY, 4000 * DAY, -400 * DAY])
def test_it_is_renewed_in_time_and_when_the_clock_steps(
    step: int, tmp_path: Path, clock: ManualClock
) -> None:
    made = authority(tmp_path, clock)
    before = made.issuer()
    clock.advance(60 * DAY)
    assert made.issuer().certificate == before.certificate
    clock.advance(step - 60 * DAY)
    after = made.issuer()
    assert after.certificate.serial_number != before.certificate.serial_number
    assert after.key.public_key() != before.key.public_key()
    assert (
        after.certificate.not_valid_before_utc < clock.now() < after.certificate.not_valid_after_utc
    )
    # Nobody has to trust anything anew.
    assert after.anchors == before.anchors


def test_a_device_that_believes_in_1970(tmp_path: Path) -> None:
    clock = ManualClock(30.0)
    made = authority(tmp_path, clock)
    before = made.issuer()
    assert made.issuer().certificate == before.certificate
    clock.advance(1_790_000_000)
    after = made.issuer()
    assert after.certificate.not_valid_before_utc.year == 2026
    assert after.anchors == before.anchors


@pytest.mark.parametrize("damaged", ["ca.pem", "ca.key"])
def test_a_damaged_ca_is_made_anew_below_the_same_root(
    damaged: str, tmp_path: Path, clock: ManualClock
) -> None:
    before = authority(tmp_path, clock).issuer()
    (tmp_path / damaged).write_text("cut off")
    after = authority(tmp_path, clock).issuer()
    assert after.certificate != before.certificate
    assert after.anchors == before.anchors


def test_a_crash_between_the_two_files(tmp_path: Path, clock: ManualClock) -> None:
    before = authority(tmp_path, clock).issuer()
    other = authority(tmp_path / "other", clock)
    other.issuer()
    (tmp_path / "other" / "ca.key").replace(tmp_path / "ca.key")
    after = authority(tmp_path, clock).issuer()
    assert after.certificate != before.certificate
    after.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(before.anchors))


def test_a_damaged_root_is_made_anew_with_its_key(tmp_path: Path, clock: ManualClock) -> None:
    before = authority(tmp_path, clock).issuer()
    (tmp_path / "root.pem").write_text("cut off")
    after = authority(tmp_path, clock).issuer()
    assert (tmp_path / "root.pem.bad").read_text() == "cut off"
    # Whoever trusts the one of before trusts all that is issued.
    assert after.certificate == before.certificate
    clock.advance(80 * DAY)
    renewed = authority(tmp_path, clock).issuer().certificate
    assert renewed != before.certificate
    renewed.verify_directly_issued_by(x509.load_pem_x509_certificate(before.anchors))


def test_a_lost_root_key_counts_when_the_ca_is_due(tmp_path: Path, clock: ManualClock) -> None:
    before = authority(tmp_path, clock).issuer()
    (tmp_path / "root.key").write_text("cut off")
    made = authority(tmp_path, clock)
    assert made.issuer().certificate == before.certificate
    clock.advance(80 * DAY)
    after = made.issuer()
    assert (tmp_path / "root.key.bad").read_text() == "cut off"
    assert after.anchors != before.anchors
    after.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(after.anchors))
    assert authority(tmp_path, clock).issuer().anchors == after.anchors


def test_a_root_key_that_others_can_read_is_left_to_people(
    tmp_path: Path, clock: ManualClock
) -> None:
    authority(tmp_path, clock).issuer()
    (tmp_path / "root.key").chmod(0o644)
    made = authority(tmp_path, clock)
    clock.advance(80 * DAY)
    with pytest.raises(InvalidArgumentError, match="chmod 600"):
        made.issuer()
    assert (tmp_path / "root.key").exists()


def test_a_crash_before_the_first_root(tmp_path: Path, clock: ManualClock) -> None:
    authority(tmp_path, clock).issuer()
    key = (tmp_path / "root.key").read_bytes()
    (tmp_path / "root.pem").unlink()
    authority(tmp_path, clock).issuer()
    assert (tmp_path / "root.key").read_bytes() == key


# One that was brought.


def _brought(
    directory: Path, clock: ManualClock, *, ca: bool = True, days: int = 10, extra: bytes = b""
) -> EdgeCa:
    key = rsa.generate_private_key(65537, 2048)
    name = parts.name("Plant CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(clock.now() - dt.timedelta(days=20))
        .not_valid_after(clock.now() + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    settings = EdgeCa(certificate=directory / "brought.pem", private_key=directory / "brought.key")
    assert settings.certificate is not None
    assert settings.private_key is not None
    settings.certificate.write_bytes(parts.certificate_pem(certificate) + extra)
    settings.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    settings.private_key.chmod(0o600)
    return settings


def test_a_ca_that_was_brought(tmp_path: Path, clock: ManualClock) -> None:
    above = authority(tmp_path / "above", clock).issuer().anchors
    settings = _brought(tmp_path, clock, extra=above)
    made = authority(tmp_path / "home", clock, settings)
    assert made.is_brought
    issuer = made.issuer()
    assert issuer.certificate.serial_number == 7
    assert issuer.chain.count(b"BEGIN CERTIFICATE") == 2
    assert issuer.anchors == issuer.chain
    assert not (tmp_path / "home").exists()


def test_bad_files_that_were_brought(tmp_path: Path, clock: ManualClock) -> None:
    def refused(settings: EdgeCa) -> str:
        with pytest.raises((InvalidArgumentError, UnavailableError)) as caught:
            authority(tmp_path / "home", clock, settings).issuer()
        return caught.value.message

    settings = _brought(tmp_path, clock, ca=False)
    assert "its first certificate is not that of a CA" in refused(settings)
    assert "is valid from" in refused(_brought(tmp_path, clock, days=-1))
    settings = _brought(tmp_path, clock)
    assert settings.private_key is not None
    assert settings.certificate is not None
    settings.private_key.chmod(0o644)
    assert "chmod 600" in refused(settings)
    settings.private_key.chmod(0o600)
    settings.private_key.write_text("nothing")
    assert "holds no unencrypted PEM key" in refused(settings)
    settings.certificate.write_text("nothing")
    assert "holds no PEM certificates" in refused(settings)
    one, other = _brought(tmp_path, clock), tmp_path / "o"
    other.mkdir()
    mixed = EdgeCa(certificate=one.certificate, private_key=_brought(other, clock).private_key)
    assert "is not the key of" in refused(mixed)
