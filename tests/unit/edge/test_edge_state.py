"""Files of state: private, whole, and never in the way of a start."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from muster.edge.state import MASTER_KEY_SIZE, StateDirectory
from muster.ids import Randomness

if TYPE_CHECKING:
    from pathlib import Path


class Note(msgspec.Struct, frozen=True):
    text: str
    numbers: list[int]


NOTE = Note("ä", [1, 2])


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "var" / "state")


def test_round_trip(state: StateDirectory) -> None:
    assert state.read("note", Note) is None
    state.write("note", NOTE)
    assert state.read("note", Note) == NOTE
    state.remove("note")
    state.remove("note")
    assert state.read("note", Note) is None
    below = state.directory("below")
    below.write("note", NOTE)
    assert (state.home / "below" / "note").exists()


def test_nobody_else_can_read(state: StateDirectory) -> None:
    state.write("note", NOTE)
    state.master_key(Randomness())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.home.iterdir()}
    assert modes == {"note": 0o600, "master.key": 0o600}
    assert stat.S_IMODE(state.home.stat().st_mode) == 0o700


def test_the_same_is_not_written_again(state: StateDirectory) -> None:
    state.write("note", NOTE)
    before = (state.home / "note").stat()
    state.write("note", NOTE)
    after = (state.home / "note").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    state.write("note", Note("b", []))
    assert state.read("note", Note) == Note("b", [])


def test_a_file_that_was_cut_off_anywhere_is_none(state: StateDirectory) -> None:
    state.write("note", NOTE)
    whole = (state.home / "note").read_bytes()
    for length in range(len(whole)):
        (state.home / "note").write_bytes(whole[:length])
        (state.home / "note").chmod(0o600)
        assert state.read("note", Note) is None
        assert (state.home / "note.bad").read_bytes() == whole[:length]
        state.write("note", NOTE)
        assert state.read("note", Note) == NOTE


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"[]", b'{"text":1,"numbers":[]}', b"\0"])
def test_a_file_that_says_something_else_is_none(state: StateDirectory, content: bytes) -> None:
    state.write("note", NOTE)
    (state.home / "note").write_bytes(content)
    assert state.read("note", Note) is None


@pytest.mark.parametrize("content", [b"", bytes(MASTER_KEY_SIZE), b"x" * 31, b"x" * 33])
def test_a_master_key_that_is_none_is_put_aside(state: StateDirectory, content: bytes) -> None:
    first = state.master_key(Randomness())
    assert state.master_key(Randomness()) == first
    (state.home / "master.key").write_bytes(content)
    second = state.master_key(Randomness())
    assert second not in (first, content)
    assert (state.home / "master.key.bad").read_bytes() == content
    assert state.master_key(Randomness()) == second


def test_a_master_key_is_kept_where_it_cannot_be_opened_now(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = state.master_key(Randomness())

    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("muster.auth.private_file.read_private", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            state.master_key(Randomness())
    assert state.master_key(Randomness()) == first


def test_a_file_that_others_could_write_is_not_believed(state: StateDirectory) -> None:
    state.write("note", NOTE)
    (state.home / "note").chmod(0o666)
    assert state.read("note", Note) is None


def test_a_directory_in_place_of_a_file(state: StateDirectory) -> None:
    (state.home / "note").mkdir()
    assert state.read("note", Note) is None
    state.write("note", NOTE)
    assert state.read("note", Note) == NOTE


def test_the_master_key_stays(state: StateDirectory) -> None:
    key = state.master_key(Randomness())
    assert len(key) == MASTER_KEY_SIZE
    assert state.master_key(Randomness()) == key
    (state.home / "master.key").write_bytes(key[:7])
    (state.home / "master.key").chmod(0o600)
    other = state.master_key(Randomness())
    assert len(other) == MASTER_KEY_SIZE
    assert other != key
    assert state.master_key(Randomness()) == other
