"""Every message about the device itself, made by breaking that very thing."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.edge.check import configuration_checks as checks
from muster.edge.check.outcome import IGNORED, Result
from muster.edge.check.run import CONFIGURATION, run
from unit.edge.certificates.conftest import authority
from unit.edge.check.conftest import Device, fine, problem

WARNING = Result.WARNING
DPS = """
homedir = "{home}"
[provisioning]
source = "dps"
global_endpoint = "https://dps.example.org"
id_scope = "0ne1"
[provisioning.attestation]
registration_id = "r"
"""


def test_a_bad_file_is_fatal_and_all_else_is_skipped(device: Device) -> None:
    device.write("nonsense = 1\n")
    around = device.around(read=False)
    what, fix = problem(checks.well_formed, around, Result.FATAL)
    assert what.startswith(f"{device.file}:5: provisioning.nonsense: there is no such key")
    assert "iotedge config dps" in fix
    found = list(run(CONFIGURATION, around))
    assert [finding.outcome.result for finding in found[1:]] == [Result.SKIPPED] * (len(found) - 1)


def test_a_file_that_may_not_be_read(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # as the kernel does for everybody but root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    what, fix = problem(checks.well_formed, device.around(read=False), Result.FATAL)
    assert what == f"{device.file}: cannot be read: Permission denied"
    assert fix == "try again with sudo"


def test_a_device_without_a_hub(device: Device) -> None:
    device.write(base="[provisioning]\nsource = 'none'\n")
    what, _ = problem(checks.well_formed, device.around(read=False), Result.FATAL)
    assert "a device without a hub has no modules" in what


def test_a_tpm(device: Device) -> None:
    device.write("method = 'tpm'\n", base=DPS)
    what, _ = problem(checks.well_formed, device.around(read=False), Result.FATAL)
    assert "keys of a TPM cannot be used" in what


def test_a_file_that_others_may_read(device: Device) -> None:
    device.file.chmod(0o644)
    what, fix = problem(checks.well_formed, device.around(read=False), WARNING)
    assert "others may read it" in what
    assert fix == f"chmod 600 '{device.file}'"
    device.file.chmod(0o600)
    fine(checks.well_formed, device.around(read=False))


def test_a_file_that_was_changed_since(device: Device) -> None:
    around = device.around()
    os.utime(device.file, (device.clock.time() - 100, device.clock.time() - 100))
    fine(checks.up_to_date, around)
    device.says["/systeminfo/resources"] = {"process_uptime": 200}
    what, fix = problem(checks.up_to_date, around, WARNING)
    assert "was changed after the daemon had read it" in what
    assert fix == "sudo iotedge config apply"


def test_no_daemon(device: Device) -> None:
    device.says.clear()
    for check in (checks.management, checks.up_to_date, checks.daemon_version):
        what, fix = problem(check, device.around())
        assert what == "the daemon does not answer: nobody listens"
        assert fix.startswith("sudo iotedge system restart")


def test_another_version(device: Device) -> None:
    assert fine(checks.management, device.around()).facts == {"daemon_version": "1"}
    fine(checks.daemon_version, device.around())
    device.options["expected_version"] = "2"
    what, _ = problem(checks.daemon_version, device.around(), WARNING)
    assert what == "the daemon is version 1, expected is 2"


def test_host_names(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gateway")
    base = device.file.read_text()
    device.write(base='hostname = "Gateway.example.org"\n' + base)
    fine(checks.host_name, device.around())
    device.write(base='hostname = "other"\n' + base)
    what, _ = problem(checks.host_name, device.around(), WARNING)
    assert what == "hostname is other, and this machine is called gateway"
    device.write(base='hostname = "gateway.a_b"\n' + base)
    what, _ = problem(checks.host_name, device.around(), WARNING)
    assert "is no name by RFC 1035" in what


def test_trust_bundles(device: Device, tmp_path: Path) -> None:
    assert checks.trust_bundle(device.around()) == IGNORED
    bundle = tmp_path / "ca.pem"
    device.write(base=f'trust_bundle_cert = "file://{bundle}"\n' + device.file.read_text())
    what, _ = problem(checks.trust_bundle, device.around())
    assert what == f"trust_bundle_cert {bundle} cannot be used: No such file or directory"
    bundle.write_text("nothing")
    what, fix = problem(checks.trust_bundle, device.around())
    assert "cannot be used" in what
    assert "PEM" in fix
    bundle.write_bytes(authority(tmp_path / "x", device.clock).issuer().anchors)
    fine(checks.trust_bundle, device.around())


def test_the_certificate_of_the_device(device: Device, tmp_path: Path) -> None:
    assert checks.identity_certificate(device.around()) == IGNORED
    path = tmp_path / "device.pem"
    device.write(
        f'method = "x509"\nidentity_cert = "file://{path}"\nidentity_pk = "file://{path}"\n',
        base=DPS,
    )
    what, _ = problem(checks.identity_certificate, device.around())
    assert f"identity_cert {path} cannot be used" in what
    path.write_bytes(authority(tmp_path / "x", device.clock).issuer().chain)
    fine(checks.identity_certificate, device.around())
    day = dt.timedelta(days=1).total_seconds()
    device.clock.advance(85 * day)
    what, _ = problem(checks.identity_certificate, device.around(), WARNING)
    assert f"the device's certificate {path} ends on " in what
    device.clock.advance(10 * day)
    what, _ = problem(checks.identity_certificate, device.around())
    assert " ended on " in what
    device.clock.advance(-1000 * day)
    what, fix = problem(checks.identity_certificate, device.around())
    assert "is valid only from" in what
    assert "clock" in fix


def test_a_ca_that_was_brought(device: Device, tmp_path: Path) -> None:
    assert checks.edge_ca(device.around()) == IGNORED
    made = authority(tmp_path / "x", device.clock)
    made.issuer()
    files = f'[edge_ca]\ncert = "file://{tmp_path}/x/ca.pem"\npk = "file://{tmp_path}/x/ca.key"\n'
    device.write(files)
    fine(checks.edge_ca, device.around())
    (tmp_path / "x" / "ca.key").chmod(0o640)
    what, fix = problem(checks.edge_ca, device.around())
    assert what.startswith("edge_ca: The key file")
    assert "take both out" in fix


def test_state(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"kind": "ext4"}
    monkeypatch.setattr(checks, "_file_system", lambda _home: kinds["kind"])
    fine(checks.storage, device.around())
    kinds["kind"] = "tmpfs"
    what, _ = problem(checks.storage, device.around(), WARNING)
    assert "is on tmpfs: identity, deployment and messages are lost" in what
    kinds["kind"] = "ext4"
    monkeypatch.setattr(checks, "_LEAST_FREE", 1 << 62)
    what, fix = problem(checks.storage, device.around())
    assert " MB left, less than " in what
    assert "storeLimits" in fix
    monkeypatch.setattr(checks, "_LEAST_FREE", 0)
    monkeypatch.setattr(os, "access", lambda *_: False)
    what, _ = problem(checks.storage, device.around())
    assert "cannot be written by this user" in what
    device.home.rmdir()
    what, _ = problem(checks.storage, device.around())
    assert what == f"the directory of all state, {device.home}, is not there"


def test_the_file_system_is_the_real_one() -> None:
    assert checks._file_system(Path("/proc")) == "proc"
    assert checks._file_system(Path("/dev/shm/nothing/there")) == "tmpfs"


# The container engine.


@contextmanager
def _engine(path: Path, answer: bytes) -> Iterator[None]:
    """Listen where the engine would, and answer once: what answers wrongly is no real engine."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        accepted, _ = listening.accept()
        accepted.recv(1000)
        accepted.sendall(answer)
        accepted.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    thread.join(30)
    listening.close()
    path.unlink()


def test_container_engines(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    device.write(f'[moby_runtime]\nuri = "unix://{path}"\n')
    around = device.around()
    what, _ = problem(checks.container_engine, around, WARNING)
    assert what.startswith(f"there is no container engine at unix://{path}")
    assert checks.engine_dns(around) == checks.engine_logs(around) == IGNORED
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    with _engine(path, head + b'{"Version": "27.1"}'):
        assert fine(checks.container_engine, around).facts == {"engine_version": "27.1"}
    with _engine(path, head + b"hello"):
        what, _ = problem(checks.container_engine, around)
        assert what == f"what answers at unix://{path} is no container engine"
    with _engine(path, b""):
        what, fix = problem(checks.container_engine, around)
        assert "does not answer" in what
        assert fix == "sudo systemctl start docker"


def test_a_container_engine_that_may_not_be_used(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.sock"
    path.touch()
    device.write(f'[moby_runtime]\nuri = "unix://{path}"\n')

    def refuse(*_: object) -> None:
        raise PermissionError  # as the kernel does for everybody but root

    monkeypatch.setattr(socket.socket, "connect", refuse)
    what, fix = problem(checks.container_engine, device.around())
    assert "permission denied" in what
    assert "group docker" in fix


def test_the_configuration_of_the_engine(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    path.touch()
    device.write(f'[moby_runtime]\nuri = "unix://{path}"\n')
    around = device.around()
    what, fix = problem(checks.engine_logs, around, WARNING)
    assert "grow without bound" in what
    assert "max-size" in fix
    what, _ = problem(checks.engine_dns, around, WARNING)
    assert "sets none" in what
    file = around.options.engine_file
    file.write_text(json.dumps({"log-opts": {"max-size": "1m"}, "dns": ["9.9.9.9"]}))
    fine(checks.engine_logs, around)
    fine(checks.engine_dns, around)
    assert checks.engine_ipv6(around) == IGNORED
    device.write(
        f'[moby_runtime]\nuri = "unix://{path}"\nnetwork = {{ name = "n", ipv6 = true }}\n'
    )
    what, _ = problem(checks.engine_ipv6, device.around(), WARNING)
    assert "has no IPv6" in what
    file.write_text('{"ipv6": true}')
    fine(checks.engine_ipv6, device.around())
    file.write_text("{")
    what, _ = problem(checks.engine_logs, around)
    assert f"{file} cannot be read" in what
