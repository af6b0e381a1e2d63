"""The data directory belongs to one instance at a time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from muster.errors import ConflictError, UnavailableError
from muster.store.data_directory import DataDirectory

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with DataDirectory.open(path) as directory:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert directory.database == path / "muster.db"
        assert directory.ca == path / "ca"
        assert directory.master_key == path / "master.key"
        assert directory.journal_directory("plant-a.test") == path / "telemetry" / "plant-a.test"
        assert DataDirectory.instance_file(path) == path / "instance.json"
        assert stat.S_IMODE((path / "muster.lock").stat().st_mode) == 0o600


def test_a_second_instance_is_told_who_has_it(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path):
        with pytest.raises(ConflictError) as caught:
            DataDirectory.open(tmp_path)
        assert caught.value.code == "data-directory-in-use"
        assert f"process {os.getpid()}" in caught.value.message
        assert str(tmp_path) in caught.value.message
    DataDirectory.open(tmp_path).close()


def test_whether_an_instance_runs_is_asked_without_a_trace(tmp_path: Path) -> None:
    assert not DataDirectory.in_use(tmp_path / "missing")
    assert not DataDirectory.in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_instance_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from muster.store.data_directory import DataDirectory\n"
        "held = DataDirectory.open(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ConflictError, match=f"process {child.pid}"):
            DataDirectory.open(tmp_path)
        assert DataDirectory.in_use(tmp_path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not DataDirectory.in_use(tmp_path)
        with DataDirectory.open(tmp_path):
            assert (tmp_path / "muster.lock").read_text() == f"{os.getpid()}\n"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UnavailableError, match=str(tmp_path)) as caught:
        DataDirectory.open(tmp_path / "data")
    assert caught.value.code == "data-directory-unusable"
