"""The edge runtime as it is installed on a device: offline, and nothing of the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muster.edge.daemon.command import BAD_SETTINGS
from muster.edge.daemon.runtimes import STOP_S
from muster.edge.local_api.sockets import path_of
from muster.edge.settings import Sockets
from support.wheels import ROOT, closure

SCRIPT = ROOT / "deploy" / "install-edge.sh"
IMPORT_ALL = """
import importlib, pkgutil, muster.edge
for found in pkgutil.walk_packages(muster.edge.__path__, "muster.edge."):
    importlib.import_module(found.name)
"""


def _install(wheels: Path, root: Path) -> subprocess.CompletedProcess[str]:
    tools = root / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    for name in ("getent", "groupadd", "systemctl"):  # nothing of this machine is changed
        (tools / name).write_text("#!/bin/sh\nexit 0\n")
        (tools / name).chmod(0o755)
    for name in ("bin", "units"):
        (root / name).mkdir(exist_ok=True)
    return subprocess.run(
        [SCRIPT, wheels],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PREFIX": str(root / "edge"),
            "BIN": str(root / "bin"),
            "UNITS": str(root / "units"),
            "PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="installing is for root")
def test_it_is_installed_and_runs_without_the_service(wheels: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time is an upgrade
        done = _install(wheels, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Installed: iotedge " in done.stdout
    python = tmp_path / "edge" / "bin" / "python"
    names = subprocess.check_output(
        [python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"], text=True
    )
    installed = {line.partition("==")[0].lower() for line in names.split()}
    assert installed - {"pip", "setuptools"} == set(closure("muster-iot", "edge"))
    assert not installed & {"uvloop", "pyarrow", "azure-iot-device", "pytest"}
    for command in (
        [tmp_path / "bin" / "iotedge", "version"],
        [tmp_path / "bin" / "iotedge", "check-list"],
        [tmp_path / "bin" / "iotedged", "--help"],
        [python, "-W", "error", "-c", IMPORT_ALL],
    ):
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert ran.returncode == 0, ran.stderr
    unit = (tmp_path / "units" / "iotedged.service").read_text()
    assert f"ExecStart={tmp_path}/edge/bin/iotedged" in unit


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    done = _install(tmp_path / "nothing", tmp_path)
    assert done.returncode == 1
    assert "is no directory" in done.stderr
    (tmp_path / "empty").mkdir()
    assert "has no wheel of muster-iot" in _install(tmp_path / "empty", tmp_path).stderr


def test_the_unit_fits_the_daemon() -> None:
    lines = (ROOT / "deploy" / "systemd" / "iotedged.service").read_text().splitlines()
    found = dict(line.partition("=")[::2] for line in lines if "=" in line and line[0] != "#")
    assert found["RestartPreventExitStatus"] == str(BAD_SETTINGS)
    # The daemon stops its modules itself, and then has to end with what it has on disk.
    assert int(found["TimeoutStopSec"]) > STOP_S + 30
    assert found["KillMode"] == "process"
    assert found["Type"] == "notify"
    sockets = Path(path_of(Sockets().management)).parent
    assert sockets.name == found["RuntimeDirectory"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "systemd" / "iotedged.service").read_text()
    unit = tmp_path / "iotedged.service"
    unit.write_text(text.replace("/opt/muster-edge/bin/iotedged", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
