from __future__ import annotations

from pathlib import Path

import pytest

from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import load
from muster.edge.settings import DpsProvisioning, SymmetricKeyAttestation
from unit.edge.configuration.conftest import KEY
from unit.edge.configuration.test_toml_format import DPS


def _written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def _key(path: Path) -> bytes:
    provisioning = load(path).settings.provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert isinstance(provisioning.attestation, SymmetricKeyAttestation)
    return provisioning.attestation.key


def _pointing(to: Path) -> str:
    return DPS.replace(f'value = "{KEY}"', f'uri = "file://{to}"')


@pytest.mark.parametrize(
    "content", [KEY.encode(), KEY.encode() + b"\n", b"\x80 raw bytes as daemons do"]
)
def test_a_key_in_a_file(content: bytes, tmp_path: Path) -> None:
    key = _written(tmp_path / "key", content)
    expected = b"sixteen bytes or more" if content.startswith(b"c2") else content
    assert _key(_written(tmp_path / "config.toml", _pointing(key))) == expected


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"short", 0o600, "holds no symmetric key: raw bytes or base64"),
        (b"sixteen bytes or more", 0o640, "chmod 600"),
        (None, 0o600, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_key_file(content: bytes | None, mode: int, said: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    if content is not None:
        _written(key, content, mode)
    with pytest.raises(ConfigurationError) as caught:
        load(_written(tmp_path / "config.toml", _pointing(key)))
    assert caught.value.message.startswith(f"{tmp_path}/config.toml:9: ")
    assert said in caught.value.message


def test_an_exposed_file_is_told(tmp_path: Path) -> None:
    path = _written(tmp_path / "config.toml", DPS, 0o644)
    assert f"chmod 600 '{path}'" in load(path).notices[0]
    path.chmod(0o600)
    assert load(path).notices == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"a = 1\n\xff", ":2: not UTF-8"),
        (b"#" * ((1 << 20) + 1), "is larger than"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b".".join([b"a"] * 100_000) + b" = 1", "more than 50 parts"),
        (b"[" + b" . ".join([b"a"] * 100_000) + b"]", "more than 50 parts"),
        (b"a = [\n" + b"[1],\n" * 100_000 + b"]\n", "provisioning"),
        ('a = "\u2028"\n\n[provisioning]\n'.encode(), ":3: provisioning: source is missing"),
    ],
)
def test_what_cannot_be_read(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        _written(path, content)
    with pytest.raises(ConfigurationError, match=said):
        load(path)


def test_marks_and_line_ends_of_windows(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + DPS.replace("\n", "\r\n").encode()
    assert load(_written(tmp_path / "config.toml", text)).settings.provisioning is not None
