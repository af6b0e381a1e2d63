"""From a file to settings."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Final

import msgspec

from muster.edge.configuration import toml_format
from muster.edge.configuration.applied import fingerprint
from muster.edge.configuration.document import ConfigurationError, read_toml
from muster.edge.configuration.section import Section
from muster.edge.settings import Settings

DEFAULT_FILE: Final = Path("/etc/aziot/config.toml")
"""Of 1.2 and later, and of this runtime."""
OLD_FILE: Final = Path("/etc/iotedge/config.yaml")
"""Of 1.1."""
_MAX_SIZE: Final = 1 << 20


class Configuration(msgspec.Struct, frozen=True):
    """What a file says.

    Attributes:
        settings: of the device.
        notices: sentences for its owner, each with file, line and key: what has no effect here.
        fingerprint: of the content, see `applied`; empty for a text that is in no file.
    """

    settings: Settings
    notices: tuple[str, ...] = ()
    fingerprint: str = ""


def usual_file() -> Path:
    """Return the file that the daemon reads where nobody names one."""
    return OLD_FILE if _is_there(OLD_FILE) and not _is_there(DEFAULT_FILE) else DEFAULT_FILE


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True  # in a directory that this user may not look at; reading it will say so


def is_yaml(source: Path) -> bool:
    """Tell whether a file is of 1.1's format: its name says so."""
    return source.suffix.lower() in (".yaml", ".yml")


def load(source: Path, *, hostname: str | None = None) -> Configuration:
    """Read a configuration file: YAML by its suffix `.yaml` or `.yml`, TOML otherwise.

    Args:
        source: the file.
        hostname: of the machine; `None` to ask the machine.

    Raises:
        ConfigurationError: it cannot be read or used; file, line and key are in the message.
    """
    try:
        with source.open("rb") as file:
            mode = stat.S_IMODE(source.stat().st_mode)
            content = file.read(_MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{source}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{source}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_SIZE:
        raise ConfigurationError(f"{source}: is larger than {_MAX_SIZE} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{source}:{line}: not UTF-8") from None
    found = msgspec.structs.replace(
        parse(source, text, hostname=hostname or socket.gethostname()),
        fingerprint=fingerprint(content),
    )
    if mode & 0o077:
        told = f"{source}: others may read it, and it may hold a key: chmod 600 '{source}'"
        found = msgspec.structs.replace(found, notices=(told, *found.notices))
    return found


def parse(source: Path, text: str, *, hostname: str) -> Configuration:
    """Read the text of a configuration file; see `load`.

    Files that it names are not opened, those with a symmetric key excepted.
    """
    text = text.replace("\r\n", "\n")
    notices: list[str] = []
    if is_yaml(source):
        from muster.edge.configuration import yaml_document, yaml_format  # noqa: PLC0415 - seldom

        document = yaml_document.read_yaml(source, text)
        settings = yaml_format.read(Section(document, (), document.value, notices), hostname)
    else:
        document = read_toml(source, text)
        settings = toml_format.read(Section(document, (), document.value, notices), hostname)
    return Configuration(settings, tuple(notices))
