"""The data directory: where everything that must survive lies, used by one instance at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, Self, final

from muster.errors import ConflictError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_LOCK: Final = "muster.lock"
_INSTANCE: Final = "instance.json"
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.02
"""`in_use` has the lock for an instant."""


@final
class DataDirectory:
    """A data directory in the possession of this process. Made by `open`.

    The lock is the kernel's (`flock`), so it is gone when the process is, whatever ended it; the
    file that carries it stays and holds the process number of the last owner.

    Attributes:
        path: of the directory, absolute.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, path: Path, lock: int) -> None:
        """Use `open`."""
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take possession of a directory, made as needed with access for its owner only.

        Raises:
            ConflictError: another instance uses it; code `data-directory-in-use`. The message
                names its process.
            UnavailableError: it cannot be made or written; code `data-directory-unusable`.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(path, _take(path))
        except OSError as error:
            raise UnavailableError(
                f"The data directory {path} cannot be used: {error.strerror or error}",
                code="data-directory-unusable",
                subject=str(path),
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.path / "muster.db"

    @property
    def ca(self) -> Path:
        """Directory of the certificate authority and the server certificate."""
        return self.path / "ca"

    @property
    def master_key(self) -> Path:
        """The key that seals all keys in the database."""
        return self.path / "master.key"

    @property
    def blobs(self) -> Path:
        """Directory of the files that make up blobs."""
        return self.path / "blobs"

    def journal_directory(self, hub_host: str) -> Path:
        """Return the directory of a hub's telemetry journal.

        Args:
            hub_host: host name of the hub, checked to be one.
        """
        return self.path / "telemetry" / hub_host

    def routed_directory(self, hub_host: str) -> Path:
        """Return the directory of the journal of what goes to a hub's own endpoints.

        Args:
            hub_host: host name of the hub, checked to be one.
        """
        return self.path / "routed" / hub_host

    @property
    def files(self) -> Path:
        """Below it file endpoints write, unless the settings say otherwise."""
        return self.path / "files"

    @staticmethod
    def instance_file(path: Path) -> Path:
        """Return where the instance on a data directory tells how to reach it.

        Needs no possession: this is how other programs of the same user find the instance.

        Args:
            path: of the data directory.
        """
        return path / _INSTANCE

    @staticmethod
    def in_use(path: Path) -> bool:
        """Tell whether an instance runs on a data directory, in this container or another.

        Args:
            path: of the data directory.
        """
        try:
            lock = os.open(path / _LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def close(self) -> None:
        """Let the next instance have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _take(path: Path) -> int:
    """Lock the directory and return the descriptor that holds the lock."""
    # Not inheritable, as all descriptors of Python: a child that outlives us holds nothing.
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        owner = ""
        with contextlib.suppress(OSError):
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise ConflictError(
            f"The data directory {path} is in use by another instance"
            + (f" (process {owner})" if owner.isdigit() else "")
            + ". Stop that one first, or choose another directory with --data-dir.",
            code="data-directory-in-use",
            subject=str(path),
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock


def _lock(lock: int) -> None:
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
