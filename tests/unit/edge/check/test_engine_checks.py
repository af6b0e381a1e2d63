"""Every message about the container engine that needs no engine; a real one is in the contract."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muster.edge.check import engine_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from support.users import nobody
from unit.edge.check.conftest import Device, fine, problem

WARNING = Result.WARNING


@contextmanager
def _listening(path: Path, answer: bytes | None = None) -> Iterator[None]:
    """Listen where the engine would; what answers is none."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        accepted, _ = listening.accept()
        accepted.recv(1000)
        accepted.sendall(answer or b"")
        accepted.close()

    thread = threading.Thread(target=serve, daemon=True)
    if answer is not None:
        thread.start()
    yield
    if answer is not None:
        thread.join(30)
    listening.close()
    path.unlink()


def _with_engine(device: Device, more: str = "") -> Path:
    path = device.directory / "e.sock"
    device.write(f'[moby_runtime]\nuri = "unix://{path}"\n{more}')
    return path


def test_no_engine(device: Device) -> None:
    path = _with_engine(device)
    around = device.around()
    what, _ = problem(checks.container_engine, around, Cause.ENGINE_MISSING, WARNING)
    assert what.startswith(f"there is no container engine at unix://{path}")
    assert checks.engine_dns(around) == checks.engine_logs(around) == IGNORED


def test_something_else(device: Device) -> None:
    path = _with_engine(device)
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    for answer in (b"hello", b"[]", b'{"message": "page not found"}'):
        with _listening(path, head + answer):
            what, _ = problem(checks.container_engine, device.around(), Cause.ENGINE_FOREIGN)
            assert what == f"what answers at unix://{path} is no container engine"


def test_an_engine_that_hangs_or_breaks_off(device: Device) -> None:
    path = _with_engine(device)
    device.options["patience_s"] = 0.2
    with _listening(path):
        what, fix = problem(checks.container_engine, device.around(), Cause.ENGINE_SILENT)
    assert what == f"the container engine at unix://{path} does not answer: timed out"
    assert fix == "sudo systemctl start docker"
    with _listening(path, b""):
        problem(checks.container_engine, device.around(), Cause.ENGINE_SILENT)


def test_an_engine_that_may_not_be_used(device: Device) -> None:
    path = _with_engine(device)
    around = device.around()
    with _listening(path):
        path.chmod(0o600 if device.directory.owner() == "root" else 0)
        with nobody():
            what, fix = problem(checks.container_engine, around, Cause.ENGINE_FORBIDDEN)
    assert what.endswith("may not be used: permission denied")
    assert "group docker" in fix


def test_the_configuration_of_the_engine(device: Device) -> None:
    _with_engine(device).touch()
    around = device.around()
    file = around.options.engine_file
    what, fix = problem(checks.engine_logs, around, Cause.ENGINE_LOGS_UNBOUNDED, WARNING)
    assert "grow without bound" in what
    assert "max-size" in fix
    what, _ = problem(checks.engine_dns, around, Cause.ENGINE_WITHOUT_DNS, WARNING)
    assert "sets none" in what
    file.write_text(json.dumps({"log-opts": {"max-size": "1m"}, "dns": ["9.9.9.9"]}))
    fine(checks.engine_logs, around)
    fine(checks.engine_dns, around)
    assert checks.engine_ipv6(around) == IGNORED
    file.write_text('{"log-driver": "journald"}')
    fine(checks.engine_logs, around)
    for broken in ("{", "[]", '{"log-opts": 1}', '{"dns": {}}'):
        file.write_text(broken)
        what, _ = problem(checks.engine_logs, around, Cause.ENGINE_FILE_UNUSABLE)
        assert f"{file} cannot be read" in what


def test_ipv6(device: Device) -> None:
    _with_engine(device, 'network = { name = "n", ipv6 = true }\n').touch()
    around = device.around()
    what, _ = problem(checks.engine_ipv6, around, Cause.ENGINE_WITHOUT_IPV6, WARNING)
    assert "has no IPv6" in what
    around.options.engine_file.write_text('{"ipv6": true}')
    fine(checks.engine_ipv6, around)
