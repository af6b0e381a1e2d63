"""Every message about the container engine that needs no engine; a real one is in the contract."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.edge.check import engine_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from support.users import nobody
from unit.edge.check.conftest import Device, fine, problem, unix_server, unix_socket

WARNING = Result.WARNING


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
    for answer in (b"hello", b"[]", b'{"message": "page not found"}'):
        with unix_server(path, answer):
            what, _ = problem(checks.container_engine, device.around(), Cause.ENGINE_FOREIGN)
            assert what == f"what answers at unix://{path} is no container engine"


def test_an_engine_that_hangs_or_breaks_off(device: Device) -> None:
    path = _with_engine(device)
    device.options["patience_s"] = 0.2
    with unix_socket(path):
        what, fix = problem(checks.container_engine, device.around(), Cause.ENGINE_SILENT)
    assert what == f"the container engine at unix://{path} does not answer: timed out"
    assert fix == "sudo systemctl start docker"
    with unix_server(path, None):
        problem(checks.container_engine, device.around(), Cause.ENGINE_SILENT)


def test_an_engine_that_may_not_be_used(device: Device) -> None:
    path = _with_engine(device)
    around = device.around()
    with unix_socket(path):
        path.chmod(0o600 if device.directory.owner() == "root" else 0)
        with nobody():
            what, fix = problem(checks.container_engine, around, Cause.ENGINE_FORBIDDEN)
    assert what.endswith("may not be used: permission denied")
    assert "group docker" in fix


def test_an_engine_where_this_user_may_not_look(device: Device) -> None:
    directory = device.directory / "closed"
    directory.mkdir(mode=0o700)
    device.write(f'[moby_runtime]\nuri = "unix://{directory}/e.sock"\n')
    around = device.around()
    directory.chmod(0o700 if device.directory.owner() == "root" else 0)
    with nobody():
        problem(checks.container_engine, around, Cause.ENGINE_FORBIDDEN)
    directory.chmod(0o700)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://[::1]:1/x"])
def test_an_engine_on_another_machine_that_is_off(uri: str, device: Device) -> None:
    device.write(f'[moby_runtime]\nuri = "{uri}"\n')
    what, _ = problem(checks.container_engine, device.around(), Cause.ENGINE_SILENT)
    assert what.startswith(f"the container engine at {uri} does not answer: ")


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
