"""Every message about the configuration and the directory of state, made by breaking them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.edge.check import configuration_checks as checks
from muster.edge.check.causes import Cause
from muster.edge.check.outcome import IGNORED, Result
from muster.edge.check.run import CHECKS, CONFIGURATION, run
from support.users import nobody
from unit.edge.check.conftest import Device, fine, problem

WARNING, FATAL, SKIPPED = Result.WARNING, Result.FATAL, Result.SKIPPED
TPM = """
[provisioning]
source = "dps"
global_endpoint = "https://dps.example.org"
id_scope = "0ne1"
[provisioning.attestation]
method = "tpm"
registration_id = "r"
"""


def test_a_bad_file_is_fatal_and_all_else_is_skipped(device: Device) -> None:
    device.write("nonsense = 1\n")
    around = device.around(read=False)
    what, fix = problem(checks.well_formed, around, Cause.CONFIGURATION_WRONG, FATAL)
    assert what.startswith(f"{device.file}:5: provisioning.nonsense: there is no such key")
    assert "iotedge config dps" in fix
    first, *others = (finding.outcome for finding in run(CHECKS, around))
    assert first.result is FATAL
    said = ("nothing is to be learnt here before aziot-edged-config-well-formed passes",)
    assert {(each.result, each.cause, each.details) for each in others} == {
        (SKIPPED, Cause.EARLIER_CHECK, said)
    }


def test_a_file_that_may_not_be_read(device: Device) -> None:
    device.file.chmod(0)
    with nobody():
        what, fix = problem(
            checks.well_formed, device.around(read=False), Cause.CONFIGURATION_UNREADABLE, FATAL
        )
    assert what == f"{device.file}: cannot be read: Permission denied"
    assert fix == "try again with sudo"


def test_no_file(device: Device) -> None:
    device.file.unlink()
    what, fix = problem(
        checks.well_formed, device.around(read=False), Cause.CONFIGURATION_MISSING, FATAL
    )
    assert what == f"{device.file}: there is no such file"
    assert fix.startswith("write one: iotedge config dps --help")


def test_a_device_without_a_hub(device: Device) -> None:
    device.write(base="[provisioning]\nsource = 'none'\n")
    what, _ = problem(
        checks.well_formed, device.around(read=False), Cause.CONFIGURATION_WITHOUT_HUB, FATAL
    )
    assert "a device without a hub has no modules" in what


def test_a_tpm(device: Device) -> None:
    device.write(base=TPM)
    what, _ = problem(
        checks.well_formed, device.around(read=False), Cause.CONFIGURATION_OF_TPM, FATAL
    )
    assert "keys of a TPM cannot be used" in what


def test_a_file_that_others_may_read(device: Device) -> None:
    device.file.chmod(0o644)
    what, fix = problem(
        checks.well_formed, device.around(read=False), Cause.CONFIGURATION_EXPOSED, WARNING
    )
    assert "others may read it" in what
    assert fix == f"chmod 600 '{device.file}'"
    device.file.chmod(0o600)
    fine(checks.well_formed, device.around(read=False))


def test_host_names(device: Device) -> None:
    machine = socket.gethostname()
    device.write(top=f'hostname = "{machine.upper()}.example.org"\n')
    fine(checks.host_name, device.around())
    device.write(top='hostname = "another-one"\n')
    what, _ = problem(checks.host_name, device.around(), Cause.HOSTNAME_DIFFERS, WARNING)
    assert what == f"hostname is another-one, and this machine is called {machine}"
    device.write(top=f'hostname = "{machine}.a_b"\n')
    what, _ = problem(checks.host_name, device.around(), Cause.HOSTNAME_MALFORMED, WARNING)
    assert "is no name by RFC 1035" in what


def test_names_of_the_device_above(device: Device) -> None:
    assert checks.parent_name(device.around()) == IGNORED
    for good in ("gateway.plant.example", "10.0.0.1"):
        device.write(top=f'parent_hostname = "{good}"\n')
        fine(checks.parent_name, device.around())
    device.write(top='parent_hostname = "a_b.example"\n')
    what, _ = problem(checks.parent_name, device.around(), Cause.PARENT_MALFORMED, WARNING)
    assert what.startswith("parent_hostname a_b.example is no name by RFC 1035")


# The directory of all state.


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_state_on_a_disk(device: Device) -> None:
    if checks._file_system(device.home) in ("tmpfs", "overlay"):
        pytest.skip("temporary files are on no disk here")
    facts = fine(checks.storage, device.around()).facts
    assert facts["free_bytes"] <= shutil.disk_usage("/").total


def test_no_directory(device: Device) -> None:
    device.home.rmdir()
    what, fix = problem(checks.storage, device.around(), Cause.HOME_MISSING)
    assert what == f"the directory of all state, {device.home}, is not there"
    assert "sudo iotedge system restart" in fix
    found = {each.check.id: each.outcome for each in run(CONFIGURATION, device.around(read=False))}
    assert found["connect-management-uri"].cause is Cause.DAEMON_AWAY
    assert found["storage"].cause is Cause.HOME_MISSING
    assert found["storage"].result is SKIPPED  # the daemon that would make it is away


def test_a_directory_in_memory(device: Device) -> None:
    with _mounted(device.home, "size=1g"):
        what, _ = problem(checks.storage, device.around(), Cause.HOME_VOLATILE, WARNING)
    assert "is on tmpfs: identity, deployment and messages are lost" in what


def test_a_full_disk(device: Device) -> None:
    with _mounted(device.home, "size=10m"):
        what, fix = problem(checks.storage, device.around(), Cause.HOME_FULL)
    assert what.endswith(" has 10 MB left, less than 200 MB")
    assert "storeLimits" in fix


def test_a_disk_that_is_read_only(device: Device) -> None:
    with _mounted(device.home, "ro"):
        what, fix = problem(checks.storage, device.around(), Cause.HOME_READ_ONLY)
    assert what == f"{device.home} cannot be written"
    assert "dmesg" in fix


def test_another_user_cannot_tell(device: Device) -> None:
    around = device.around()
    device.home.chmod(0o555)
    with nobody():
        what, fix = problem(checks.storage, around, Cause.HOME_OF_ANOTHER, SKIPPED)
        assert "only root can tell" in what
        assert fix == "try again with sudo"
    device.directory.chmod(0o700 if os.geteuid() == 0 else 0)
    with nobody():
        problem(checks.storage, around, Cause.HOME_OF_ANOTHER, SKIPPED)
    device.directory.chmod(0o755)
    device.home.chmod(0o755)


def test_the_file_system_is_the_real_one() -> None:
    assert checks._file_system(Path("/proc")) == "proc"
    assert checks._file_system(Path("/dev/shm/nothing/there")) == "tmpfs"
