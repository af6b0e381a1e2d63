"""Control groups of process modules: when there are some, and what systemd is asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from muster.edge.engine.process import group
from muster.edge.engine.process.group import Group, group_of, kill

RUN = "0123456789abcdef"
LIMITS = {"memory": 64 << 20, "processes": 10, "files": 5}


@pytest.fixture
def controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of controllers of a machine that has all."""
    file = tmp_path / "cgroup.controllers"
    file.write_text("cpuset cpu io memory pids\n")
    monkeypatch.setattr(group, "_CONTROLLERS", file)
    monkeypatch.setattr(group, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return file


def test_a_scope_keeps_what_it_can(controllers: Path) -> None:
    made = group_of("a_b-C", RUN, LIMITS)
    assert made.limits == {"memory", "processes"}
    assert made.command[0] == "/usr/bin/systemd-run"
    assert made.command[-1] == "--"
    assert {
        "--scope",
        "--unit=iotedge-a_b-C-01234567",
        "--property=Delegate=yes",
        "--property=MemoryMax=67108864",
        "--property=TasksMax=11",
    } <= set(made.command)
    controllers.write_text("cpuset cpu pids\n")
    lesser = group_of("a", RUN, LIMITS)
    assert lesser.limits == {"processes"}
    assert not any("Memory" in each for each in lesser.command)
    assert group_of("a", RUN, {"files": 5}).limits == frozenset()


def test_where_there_is_none(controllers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert group.shortfall() == ""
    controllers.write_text("cpu pids\n")
    assert group.shortfall() == "its control groups do not know memory"
    controllers.unlink()
    assert group.shortfall() == "this machine has control groups of version 1"
    assert group_of("a", RUN, LIMITS) == Group()
    controllers.write_text("memory pids\n")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert group_of("a", RUN, LIMITS) == Group()
    assert group.shortfall() == "systemd-run is missing"
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert group.shortfall() == "the daemon is not root"
    assert group_of("a", RUN, LIMITS) == Group()


def test_a_group_is_killed_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "cgroup.kill").touch()
    kill(str(tmp_path))
    assert (tmp_path / "cgroup.kill").read_text() == "1"
    kill(str(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()
