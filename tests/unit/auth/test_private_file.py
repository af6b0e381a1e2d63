"""Files with secrets: whole or absent, and private."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from muster.auth import private_file
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture(params=[0o000, 0o077])
def any_umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_umask")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_replace_sets_content_and_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    path.chmod(0o777)
    private_file.replace(path, b"new", mode)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == mode
    assert names_in(tmp_path) == ["file"]


def test_create_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert private_file.create(path, b"first", 0o600)
    assert not private_file.create(path, b"second", 0o600)
    assert path.read_bytes() == b"first"
    assert mode_of(path) == 0o600
    assert names_in(tmp_path) == ["file"]


def test_what_an_earlier_crash_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".file.{os.getpid()}.new").write_bytes(b"half")
    private_file.replace(tmp_path / "file", b"whole", 0o600)
    assert private_file.read_private(tmp_path / "file") == b"whole"


@pytest.mark.parametrize("write", [private_file.replace, private_file.create])
def test_nothing_is_left_behind_when_it_fails(tmp_path: Path, write: object) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    if write is private_file.create:
        assert not private_file.create(tmp_path / "file", b"x", 0o600)
    else:
        with pytest.raises(OSError, match="directory"):
            private_file.replace(tmp_path / "file", b"x", 0o600)
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_read_refuses_what_others_can_access(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    private_file.replace(path, b"secret", mode)
    with pytest.raises(InvalidArgumentError) as caught:
        private_file.read_private(path)
    assert caught.value.code == "exposed-key-file"
    assert f"chmod 600 '{path}'" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_read_takes_what_is_private(tmp_path: Path, mode: int) -> None:
    private_file.replace(tmp_path / "file", b"secret", mode)
    assert private_file.read_private(tmp_path / "file") == b"secret"
