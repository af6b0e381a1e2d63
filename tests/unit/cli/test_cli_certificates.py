"""Certificates of devices and modules on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from support.certificates import ClientCertificate
from unit.cli.cli_service import CliService
from unit.cli.conftest import Run, parsed

if TYPE_CHECKING:
    from pathlib import Path

SHA1 = "AB" * 20
SHA256 = "cd" * 32


def device(primary: str | None, secondary: str | None = None) -> dict[str, object]:
    prints = {"primaryThumbprint": primary, "secondaryThumbprint": secondary}
    proof = {"type": "selfSigned", "x509Thumbprint": prints}
    return {"deviceId": "d1", "etag": "MQ==", "status": "enabled", "authentication": proof}


def test_created_by_thumbprint(run: Run, service: CliService) -> None:
    service.on("PUT", "/devices/d1", device(SHA1, SHA256))
    colons = ":".join(["AB"] * 20)
    text = run(
        *("device", "create", "d1", "--thumbprint", colons, "--secondary-thumbprint", SHA256)
    ).stdout
    assert service.calls[-1].body["authentication"] == {
        "type": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": SHA1, "secondaryThumbprint": SHA256},
    }
    shown = {tuple(line.split()) for line in text.splitlines()}
    assert ("Authentication", "selfSigned") in shown
    assert ("Primary", "thumbprint", SHA1) in shown
    assert ("Secondary", "thumbprint", SHA256) in shown


@pytest.mark.parametrize("form", ["pem", "der"])
def test_created_by_certificate(run: Run, service: CliService, tmp_path: Path, form: str) -> None:
    made = ClientCertificate.make(tmp_path)
    file = made.file
    if form == "der":
        loaded = load_pem_x509_certificate(made.certificate.encode())
        file = tmp_path / "certificate.der"
        file.write_bytes(loaded.public_bytes(serialization.Encoding.DER))
    service.on("PUT", "/devices/gw/modules/m1", {**device(SHA1), "moduleId": "m1"})
    run("module", "create", "gw", "m1", "--certificate", str(file))
    assert service.calls[-1].body["authentication"] == {
        "type": "selfSigned",
        "x509Thumbprint": {"primaryThumbprint": made.sha256.upper()},
    }


def test_one_is_changed_and_the_other_stays(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/d1", device(SHA1, SHA256))
    service.on("PUT", "/devices/d1", device(SHA256))
    for options, expected in (
        (("--thumbprint", SHA256), {"primaryThumbprint": SHA256, "secondaryThumbprint": SHA256}),
        (("--secondary-thumbprint", ""), {"primaryThumbprint": SHA1, "secondaryThumbprint": None}),
        ((), {"primaryThumbprint": SHA1, "secondaryThumbprint": SHA256}),
    ):
        run("device", "update", "d1", *options)
        assert service.calls[-1].body["authentication"] == {
            "type": "selfSigned",
            "x509Thumbprint": expected,
        }


def test_the_connection_string_has_no_key(run: Run, service: CliService) -> None:
    service.on("GET", "/devices/d1", device(SHA1))
    text = parsed(run("device", "connection-string", "d1", "--json"))["connectionString"]
    assert text == "HostName=localhost;DeviceId=d1;x509=true"


def test_wrong_usage(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("-----BEGIN nothing")
    create = ("device", "create", "d1")
    for wrong, reason in (
        (("--thumbprint", "AB"), "--thumbprint must be the SHA-1"),
        (("--certificate", str(empty)), "holds no certificate"),
        (("--certificate", str(tmp_path / "none.pem")), "cannot be read"),
        (("--certificate", str(empty), "--thumbprint", SHA1), "not both"),
        (("--thumbprint", SHA1, "--primary-key", "a2V5" * 8), "one or the other"),
    ):
        assert reason in run(*create, *wrong, code=2).stderr
