"""Messages about a daemon that is away or another user's; a running one is in tests/wire."""

from __future__ import annotations

import os

import pytest

from muster.edge.check import container_checks, daemon_checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import Result
from muster.edge.configuration import applied
from muster.edge.configuration.load import load
from muster.edge.state import StateDirectory
from support.users import nobody
from unit.edge.check.conftest import Device, fine, problem, unix_server

WARNING, SKIPPED = Result.WARNING, Result.SKIPPED
NO_ENGINE = '[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n'
AGENT = '[agent.env]\nhttps_proxy = "http://proxy.example:8080"\n'
ASKING = (daemon_checks.management, daemon_checks.daemon_version, daemon_checks.edge_hub)


@pytest.mark.parametrize("check", ASKING)
def test_no_daemon(check: object, device: Device) -> None:
    what, fix = problem(check, device.around(), Cause.DAEMON_AWAY)
    assert what == f"the daemon does not answer: nobody listens on {device.socket}"
    assert fix.startswith("sudo iotedge system restart")


def test_a_daemon_that_listens_elsewhere(device: Device) -> None:
    around = device.around()
    elsewhere = f"unix://{device.directory}/elsewhere.sock"
    device.file.write_text(device.file.read_text().replace(f"unix://{device.socket}", elsewhere))
    around.configuration = load(device.file)
    what, fix = problem(daemon_checks.management, around, Cause.DAEMON_ELSEWHERE)
    assert what.endswith(f", and listen.management_uri is {elsewhere}")
    assert fix.startswith(f"name that one: iotedge -H {elsewhere} check")


@pytest.mark.parametrize("check", ASKING)
def test_a_daemon_that_this_user_may_not_ask(check: object, device: Device) -> None:
    around = device.around()
    with device.listener(0o600), nobody():
        what, fix = problem(check, around, Cause.DAEMON_FORBIDDEN)
    assert what.endswith("may not be used by this user: Permission denied")
    assert "sudo" in fix


@pytest.mark.parametrize("check", ASKING)
def test_something_else_on_the_management_socket(check: object, device: Device) -> None:
    with unix_server(device.socket, b'{"message": "hello"}'):
        what, fix = problem(check, device.around(), Cause.DAEMON_FOREIGN)
    assert what.startswith("what answers on the management socket is not the daemon: ")
    assert "IOTEDGE_HOST" in fix


# Which configuration the daemon runs with.


def test_what_the_daemon_has_read(device: Device) -> None:
    around = device.around()
    fine(daemon_checks.up_to_date, around)  # a daemon that notes nothing
    assert around.configuration is not None
    state = StateDirectory(device.home)
    applied.note(state, device.file, around.configuration.fingerprint)
    fine(daemon_checks.up_to_date, around)
    (device.home / "configuration.json").write_text("{")
    fine(daemon_checks.up_to_date, around)


def test_a_file_that_was_changed_since_by_whatever_clock(device: Device) -> None:
    around = device.around()
    assert around.configuration is not None
    applied.note(StateDirectory(device.home), device.file, around.configuration.fingerprint)
    before = device.file.stat()
    device.write(AGENT)
    os.utime(device.file, (before.st_atime - 1e8, before.st_mtime - 1e8))
    what, fix = problem(
        daemon_checks.up_to_date, device.around(), Cause.CONFIGURATION_NOT_APPLIED, WARNING
    )
    assert what == f"{device.file} was changed after the daemon had read it"
    assert fix == "sudo iotedge config apply"
    device.write()
    os.utime(device.file, (before.st_atime + 1e8, before.st_mtime + 1e8))
    fine(daemon_checks.up_to_date, device.around())


def test_another_file(device: Device) -> None:
    other = device.directory / "other.toml"
    applied.note(StateDirectory(device.home), other, applied.fingerprint(b"other"))
    what, fix = problem(
        daemon_checks.up_to_date, device.around(), Cause.CONFIGURATION_ELSEWHERE, WARNING
    )
    assert what == f"the daemon runs with {other}, and {device.file} says something else"
    assert fix.startswith(f"sudo iotedge config apply -c '{device.file}'")


def test_a_note_that_this_user_may_not_read(device: Device) -> None:
    around = device.around()
    applied.note(StateDirectory(device.home), device.file, "x")
    (device.home / "configuration.json").chmod(0)
    with nobody():
        _, fix = problem(daemon_checks.up_to_date, around, Cause.CONFIGURATION_UNKNOWN, SKIPPED)
    assert fix == "try again with sudo"


# Proxies. What the engine says is tested with a real one, elsewhere.


def test_a_proxy_that_only_the_agent_was_given(device: Device) -> None:
    device.write(NO_ENGINE + AGENT)
    with device.listener():
        what, fix = problem(
            container_checks.proxies, device.around(), Cause.PROXY_OF_AGENT_DIFFERS, WARNING
        )
    assert what == "agent.env names the proxy proxy.example:8080, and the daemon uses none"
    assert "systemctl edit iotedged" in fix
    with device.listener(HTTPS_PROXY="http://proxy.example:8080/"):
        fine(container_checks.proxies, device.around())


def test_a_proxy_that_is_none(device: Device) -> None:
    device.write(NO_ENGINE)
    with device.listener(https_proxy="socks5://x"):
        what, _ = problem(container_checks.proxies, device.around(), Cause.PROXY_MALFORMED)
    assert what.startswith("https_proxy: a proxy must be")


def test_a_daemon_whose_proxy_is_not_known(device: Device) -> None:
    device.write(NO_ENGINE)
    around = device.around()
    problem(container_checks.proxies, around, Cause.DAEMON_AWAY, SKIPPED)
    with device.listener(), nobody():
        what, fix = problem(
            container_checks.proxies, around, Cause.DAEMON_ENVIRONMENT_FORBIDDEN, SKIPPED
        )
    assert what == "the environment of the daemon may not be read"
    assert fix == "try again with sudo"
