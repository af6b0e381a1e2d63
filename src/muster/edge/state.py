"""The files in which the runtime remembers things: private, whole or not there, never in the way.

What is read back may have been cut off by a power failure or edited by somebody. It is then put
aside and counts as not there, for a device must start all the same; the log says so.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import msgspec
import structlog

from muster.auth import private_file
from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from muster.ids import Randomness

T = TypeVar("T")

MASTER_KEY_SIZE: Final = 32

_LASTING: Final = frozenset({errno.EIO, errno.EISDIR})
"""Errors of reading a file that do not pass by themselves, while its name can be given away."""
_MASTER_KEY: Final = "master.key"
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_log = structlog.get_logger(__name__)


@final
class StateDirectory:
    """A directory of state, and of the directories below it.

    Args:
        home: where; made where it is not there, for its owner only.

    Raises:
        OSError: it cannot be made or written.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)

    def directory(self, name: str) -> StateDirectory:
        """Return a directory below this one, made where it is not there."""
        return StateDirectory(self.home / name)

    def write(self, name: str, value: Any) -> None:
        """Put a value into a file as JSON, in one step that survives a power cut.

        Nothing is written where the file says the same already: flash wears.

        Args:
            name: of the file.
            value: anything that msgspec encodes.

        Raises:
            OSError: the file cannot be written.
        """
        content = msgspec.json.encode(value)
        path = self.home / name
        with contextlib.suppress(OSError, InvalidArgumentError):
            if private_file.read_private(path) == content:
                return
        private_file.replace(path, content, _FILE_MODE)

    def read(self, name: str, kind: type[T]) -> T | None:
        """Return the value of a file, `None` where there is none that can be used."""
        path = self.home / name
        try:
            return foreign_json.decode(private_file.read_private(path), kind)
        except FileNotFoundError:
            return None
        except (InvalidArgumentError, ForeignJsonError) as error:
            _put_aside(path, str(error))
        except OSError as error:
            if error.errno in _LASTING:
                _put_aside(path, str(error))
            else:
                _log.warning("state file cannot be read", file=str(path), reason=str(error))
        return None

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none."""
        (self.home / name).unlink(missing_ok=True)

    def master_key(self, randomness: Randomness) -> bytes:
        """Return the key from which this device derives others, made when there is none yet.

        One that cannot be used is put aside and made anew: what is derived from it (keys of
        modules) is brought up to date at the hub when it can be reached.

        Raises:
            OSError: it cannot be written, or not be read for want of something that may come.
        """
        path = self.home / _MASTER_KEY
        try:
            key = private_file.read_private(path)
            if len(key) == MASTER_KEY_SIZE and any(key):
                return key
            # Zeros are what a file may hold after a power cut, and anybody can guess them.
            reason = f"it holds no {MASTER_KEY_SIZE} bytes of a key"
        except FileNotFoundError:
            reason = ""
        except InvalidArgumentError as error:
            reason = error.message
        except OSError as error:
            if error.errno not in _LASTING:
                raise  # it may be readable again in a moment, and is worth more than a start
            reason = str(error)
        if reason:
            _put_aside(path, reason)
        key = randomness.token_bytes(MASTER_KEY_SIZE)
        private_file.replace(path, key, _FILE_MODE)
        return key


def _put_aside(path: Path, reason: str) -> None:
    _log.warning("state file is not used", file=str(path), reason=reason)
    with contextlib.suppress(OSError):
        path.replace(path.with_name(f"{path.name}.bad"))
