"""The keyring: sealing, and the master key and its file."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.auth.keyring import MASTER_KEY_VARIABLE, Keyring
from muster.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

MASTER = bytes(range(32))
KEYRING = Keyring(MASTER)


@given(secret=st.text(max_size=100), context=st.text(max_size=50))
def test_opens_what_it_sealed(secret: str, context: str) -> None:
    sealed = KEYRING.seal(secret, context)
    assert len(sealed) == len(secret.encode()) + 29
    assert KEYRING.open(sealed, context) == secret
    assert Keyring(MASTER).open(sealed, context) == secret


def test_same_secret_never_looks_the_same() -> None:
    sealed = {KEYRING.seal("secret", "context") for _ in range(100)}
    assert len(sealed) == 100
    assert not any(b"secret" in value for value in sealed)


def test_other_context() -> None:
    sealed = KEYRING.seal("secret", "enrollment/a")
    with pytest.raises(UnavailableError) as caught:
        KEYRING.open(sealed, "enrollment/b")
    assert caught.value.code == "wrong-master-key"


@given(position=st.integers(1, 34), bit=st.integers(0, 7))
def test_any_changed_bit(position: int, bit: int) -> None:
    sealed = bytearray(KEYRING.seal("secret", "context"))
    sealed[position] ^= 1 << bit
    with pytest.raises(UnavailableError):
        KEYRING.open(bytes(sealed), "context")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + bytes(27), b"\x02" + bytes(60)])
def test_unknown_form(sealed: bytes) -> None:
    with pytest.raises(UnavailableError) as caught:
        KEYRING.open(sealed, "context")
    assert caught.value.code == "unknown-seal"


def test_file_is_made_once_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    first = Keyring.load_or_create(path, environ={})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(path.read_bytes())) == 32
    again = Keyring.load_or_create(path, environ={})
    assert again.open(first.seal("secret", "c"), "c") == "secret"
    assert first.fingerprint == again.fingerprint
    other = Keyring.load_or_create(tmp_path / "other.key", environ={})
    assert other.fingerprint != first.fingerprint


def test_variable_wins_and_needs_no_file(tmp_path: Path) -> None:
    environ = {MASTER_KEY_VARIABLE: base64.b64encode(MASTER).decode() + "\n"}
    keyring = Keyring.load_or_create(tmp_path / "master.key", environ=environ)
    assert keyring.open(KEYRING.seal("secret", "c"), "c") == "secret"
    assert not (tmp_path / "master.key").exists()


def test_wrong_key_names_the_file_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    keyring = Keyring.load_or_create(path, environ={})
    with pytest.raises(UnavailableError) as caught:
        keyring.open(KEYRING.seal("secret", "c"), "c")
    assert str(path) in caught.value.message
    assert "another master key" in caught.value.message
    assert path.read_text().strip() not in caught.value.message
    assert caught.value.__cause__ is None


def test_file_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    Keyring.load_or_create(path, environ={})
    path.chmod(0o644)
    with pytest.raises(InvalidArgumentError) as caught:
        Keyring.load_or_create(path, environ={})
    assert caught.value.code == "exposed-key-file"
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    "text", ["hunter2", "", "aHVudGVyMg==", base64.b64encode(bytes(33)).decode(), "\x80"]
)
def test_malformed_master_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidArgumentError) as caught:
        Keyring.load_or_create(path, environ={})
    assert caught.value.code == "invalid-master-key"
    assert str(path) in caught.value.message
    assert not text or text not in caught.value.message
    if text:
        with pytest.raises(InvalidArgumentError, match=MASTER_KEY_VARIABLE) as caught:
            Keyring.load_or_create(path, environ={MASTER_KEY_VARIABLE: text})
        assert text not in caught.value.message


def test_master_of_another_size() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Keyring(b"short")
    assert caught.value.code == "invalid-master-key"


def test_subkeys_differ_by_purpose_and_master() -> None:
    assert len(KEYRING.subkey("a")) == 32
    assert KEYRING.subkey("a") == Keyring(MASTER).subkey("a")
    assert len({KEYRING.subkey("a"), KEYRING.subkey("b"), Keyring(bytes(32)).subkey("a")}) == 3


def test_master_is_not_shown() -> None:
    assert repr(KEYRING) == "Keyring(source='the master key')"
