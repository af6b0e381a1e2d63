"""Which configuration the daemon runs with, noted by itself, so that people can compare.

Times of files would not do: a device's clock may have been wrong when the file was written, or
when the daemon read it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from muster.auth import private_file
from muster.edge import foreign_json
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from muster.edge.state import StateDirectory

_FILE: Final = "configuration.json"


class Applied(msgspec.Struct, frozen=True):
    """What was read.

    Attributes:
        file: absolute path.
        content: `fingerprint` of it.
    """

    file: str
    content: str


def fingerprint(content: bytes) -> str:
    """Return what tells one content of a file from another."""
    return hashlib.sha256(content).hexdigest()


def note(state: StateDirectory, source: Path, content: str) -> None:
    """Note what the daemon runs with; nothing is written where it is noted already.

    Raises:
        OSError: it cannot be written.
    """
    state.write(_FILE, Applied(str(source.resolve()), content))


def read(home: Path) -> Applied | None:
    """Return what was noted last; `None` where nothing was, or nothing that can be used.

    Raises:
        PermissionError: this user may not.
    """
    try:
        return foreign_json.decode(private_file.read_private(home / _FILE), Applied)
    except PermissionError:
        raise
    except (OSError, InvalidArgumentError, foreign_json.ForeignJsonError):
        return None
