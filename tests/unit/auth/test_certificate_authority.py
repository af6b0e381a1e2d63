"""The certificate authority: accepted by strict verifiers, kept while good, never a surprise."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import ssl
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from muster.auth.certificate_authority import CertificateAuthority, ServerCertificate
from muster.clock import ManualClock
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ["localhost", "127.0.0.1", "::1", "dps.muster.localhost", "*.muster.localhost"]
DAY = 86_400


def load(directory: Path, clock: ManualClock | None = None) -> CertificateAuthority:
    return CertificateAuthority.load_or_create(directory, clock=clock)


def issue(
    directory: Path, names: Sequence[str] = NAMES, clock: ManualClock | None = None
) -> ServerCertificate:
    return load(directory, clock).issue_server(names)


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(directory: Path, server_name: str) -> str | None:
    """Shake hands in memory with the strictest client Python can be."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(directory / "server.pem", directory / "server.key")
    client_context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=server_name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.version()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "plant-a.muster.localhost"])
def test_python_accepts_every_name(tmp_path: Path, name: str) -> None:
    issue(tmp_path)
    assert handshake(tmp_path, name) == "TLSv1.3"


def test_python_refuses_another_name(tmp_path: Path) -> None:
    issue(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path, "other.example")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_accepts_it_strictly(tmp_path: Path) -> None:
    issue(tmp_path)
    for arguments in (
        ["-purpose", "sslserver", "-verify_hostname", "dps.muster.localhost", "server.pem"],
        ["-purpose", "sslserver", "-verify_ip", "127.0.0.1", "server.pem"],
        ["ca.pem"],
    ):
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile", "ca.pem", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "OK" in done.stdout


def test_profile(tmp_path: Path) -> None:
    clock = ManualClock()
    authority = load(tmp_path, clock)
    authority.issue_server(NAMES)
    root, server = (certificate_in(tmp_path / name) for name in ("ca.pem", "server.pem"))
    assert authority.ca_file == tmp_path / "ca.pem"
    assert authority.subject.startswith("Muster CA ")
    assert root.subject.rfc4514_string() == f"CN={authority.subject}"
    lifetime = server.not_valid_after_utc - server.not_valid_before_utc
    assert lifetime <= dt.timedelta(days=397)
    assert server.not_valid_before_utc < clock.now() - dt.timedelta(hours=23)
    assert root.not_valid_after_utc.year - clock.now().year == 20
    assert server.subject.rfc4514_string() == "CN=localhost"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "localhost",
        "dps.muster.localhost",
        "*.muster.localhost",
    ]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_files_are_private_where_they_must_be(tmp_path: Path) -> None:
    issue(tmp_path / "pki")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "pki").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644}
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_nothing_changes_while_it_is_good(tmp_path: Path) -> None:
    first = issue(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    started = time.perf_counter()
    again = issue(tmp_path, [" LOCALHOST.", *reversed(NAMES), "[::1]"])
    took_s = time.perf_counter() - started
    assert first.issued
    assert not again.issued
    assert again.not_after == first.not_after
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert took_s < 0.1, "it takes half a millisecond on a quiet machine"


def test_the_root_key_is_not_needed_while_nothing_is_signed(tmp_path: Path) -> None:
    issue(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert not issue(tmp_path).issued
    with pytest.raises(InvalidArgumentError, match=r"ca\.key is missing"):
        issue(tmp_path, ["other.example"])


@pytest.mark.parametrize("names", [NAMES[:-1], [*NAMES, "plant-b.example"]])
def test_other_names(tmp_path: Path, names: list[str]) -> None:
    issue(tmp_path)
    root = (tmp_path / "ca.pem").read_bytes()
    assert issue(tmp_path, names).issued
    assert (tmp_path / "ca.pem").read_bytes() == root


def test_renewed_thirty_days_before_the_end(tmp_path: Path) -> None:
    clock = ManualClock()
    first = issue(tmp_path, clock=clock)
    clock.advance(365 * DAY)
    assert not issue(tmp_path, clock=clock).issued
    clock.advance(2 * DAY)
    second = issue(tmp_path, clock=clock)
    assert second.issued
    assert second.not_after > first.not_after


def test_renewed_when_the_clock_was_wrong(tmp_path: Path) -> None:
    clock = ManualClock()
    issue(tmp_path, clock=clock)
    clock.advance(-30 * DAY)
    assert issue(tmp_path, clock=clock).issued


@pytest.mark.parametrize("file", ["server.pem", "server.key"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "of another"])
def test_damaged_server_files_are_made_anew(tmp_path: Path, file: str, damage: str) -> None:
    issue(tmp_path / "a")
    path = tmp_path / "a" / file
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    else:
        issue(tmp_path / "b")
        path.write_bytes((tmp_path / "b" / file).read_bytes())
    assert issue(tmp_path / "a").issued
    assert handshake(tmp_path / "a", "localhost")


def test_server_files_of_another_root(tmp_path: Path) -> None:
    issue(tmp_path / "a")
    issue(tmp_path / "b")
    for file in ("server.pem", "server.key"):
        shutil.copy(tmp_path / "b" / file, tmp_path / "a" / file)
    assert issue(tmp_path / "a").issued
    assert handshake(tmp_path / "a", "localhost")


def test_crash_between_the_two_files_of_the_root(tmp_path: Path) -> None:
    subject = load(tmp_path).subject
    (tmp_path / "ca.pem").unlink()
    assert load(tmp_path).subject == subject, "the key was kept, and the ID comes from the key"
    assert issue(tmp_path).issued


def test_key_of_another_root(tmp_path: Path) -> None:
    load(tmp_path / "a")
    load(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "ca.key", tmp_path / "a" / "ca.key")
    with pytest.raises(InvalidArgumentError, match="is not the key of"):
        issue(tmp_path / "a")


@pytest.mark.parametrize("file", ["ca.key", "server.key"])
def test_key_others_can_read(tmp_path: Path, file: str) -> None:
    issue(tmp_path)
    (tmp_path / file).chmod(0o640)
    with pytest.raises(InvalidArgumentError) as caught:
        issue(tmp_path, ["new.example"])
    assert caught.value.code == "exposed-key-file"


@pytest.mark.parametrize("file", ["ca.pem", "ca.key"])
def test_damaged_root_is_never_replaced(tmp_path: Path, file: str) -> None:
    load(tmp_path)
    (tmp_path / file).write_bytes(b"garbage")
    with pytest.raises(InvalidArgumentError) as caught:
        issue(tmp_path)
    assert caught.value.code == "invalid-certificate-file"
    assert file in caught.value.message
    assert (tmp_path / file).read_bytes() == b"garbage"


def test_root_at_its_end(tmp_path: Path) -> None:
    clock = ManualClock()
    load(tmp_path, clock)
    clock.advance(20 * 365 * DAY - 100 * DAY)
    server = issue(tmp_path, clock=clock)
    assert server.not_after == certificate_in(tmp_path / "ca.pem").not_valid_after_utc
    clock.advance(90 * DAY)
    with pytest.raises(InvalidArgumentError, match="ends on"):
        issue(tmp_path, clock=clock)


@pytest.mark.parametrize(
    "names", [[], [""], ["a b"], ["-a"], ["a..b"], ["http://a"], ["h:443"], ["a" * 300], ["ü"]]
)
def test_what_is_no_name(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        issue(tmp_path, names)
    assert caught.value.code == "invalid-host-name"


def test_long_names_and_addresses_only(tmp_path: Path) -> None:
    long_name = ".".join(["a" * 60] * 4)
    issue(tmp_path, [long_name])
    assert certificate_in(tmp_path / "server.pem").subject.rfc4514_string() == "CN=Muster"
    assert handshake(tmp_path, long_name)
    issue(tmp_path, ["10.0.0.1"])
    assert handshake(tmp_path, "10.0.0.1")
