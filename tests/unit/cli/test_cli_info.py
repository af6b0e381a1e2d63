"""`muster info`: what a running instance says, and nothing of one that is gone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from muster.config import InstanceInfo
from muster.store.data_directory import DataDirectory
from unit.cli.conftest import Run, parsed, write_info

FIELDS = {"idScope", "dpsHost", "dpsConnectionString", "hubs", "caFile", "consoleUrl", "ports"}


def test_a_running_instance(run: Run, data_dir: Path) -> None:
    with DataDirectory.open(data_dir):
        shown = run("info").stdout
        assert "0ne00000001" in shown
        assert "SharedAccessKey" not in shown
        assert parsed(run("info", "--json")).keys() >= FIELDS | {"version"}


def test_fault_injection_is_said(run: Run, data_dir: Path, info: InstanceInfo) -> None:
    with DataDirectory.open(data_dir):
        assert "(fault" not in run("info").stdout
        (hub,) = info.hubs
        on = msgspec.structs.replace(hub, fault_injection=True)
        write_info(data_dir, msgspec.structs.replace(info, hubs=[on]))
        assert run("info").stdout.count("(fault injection is on)") == 1
        write_info(data_dir, msgspec.structs.replace(info, dps_fault_injection=True))
        assert run("info").stdout.count("(fault injection is on)") == 1


def test_an_instance_that_was_killed(run: Run, data_dir: Path) -> None:
    """Its file is still there and names a process that runs, as in every other container."""
    assert (data_dir / "instance.json").exists()
    assert "is gone" in run("info", code=3).stderr
    assert run("info", "--json", code=3).stdout == ""


def test_no_instance(run: Run, tmp_path: Path) -> None:
    assert "No instance runs" in run("info", "--data-dir", str(tmp_path / "no"), code=3).stderr
