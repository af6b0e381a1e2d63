"""Files that hold secrets: created whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_SIZE: Final = 1 << 20


def read_private(path: Path) -> bytes:
    """Return the content of a file that nobody but its owner can read.

    Raises:
        FileNotFoundError: there is none.
        InvalidArgumentError: group or others have any access to it; code `exposed-key-file`.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise InvalidArgumentError(
                f"The key file {path} can be accessed by other users (mode {mode:04o}); "
                f"it is not used before you run: chmod 600 '{path}'",
                code="exposed-key-file",
            )
        return file.read(_MAX_SIZE)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put the content at the path in one step that survives a power cut.

    Args:
        path: where; an existing file gives way.
        content: all of it.
        mode: permission bits, for example 0o600; the umask does not matter.
    """
    temporary = _write_beside(path, content, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def create(path: Path, content: bytes, mode: int) -> bool:
    """Like `replace`, but leave an existing file alone; return whether it was created."""
    temporary = _write_beside(path, content, mode)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return True


def _write_beside(path: Path, content: bytes, mode: int) -> Path:
    # In the same directory, so that the rename stays within one file system. What is there under
    # this name was left by a process that died, for a data directory has one owner at a time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot sync a directory; they order renames themselves.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
