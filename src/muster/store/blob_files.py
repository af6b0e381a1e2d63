"""The bytes of blobs: files with names of our own, so that no name of theirs can lead astray.

A file is written once, made durable, and never changed. What it belongs to stands in the database;
what stands nowhere is removed at the next start. All work with the disk is done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from typing import IO, TYPE_CHECKING, Final, final

import structlog
from msgspec import Struct

from muster.errors import TooLargeError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from muster.ids import Randomness

MIN_FREE: Final = 256 << 20
"""Bytes that are left free on the disk, for the database and the journal."""
_CHUNK: Final = 1 << 20

_log = structlog.get_logger(__name__)


class BlobFile(Struct, frozen=True):
    """A file that was written.

    Attributes:
        name: under which it is found.
        size: bytes.
        md5: of its content; clients compare it.
    """

    name: str
    size: int
    md5: bytes


@final
class BlobFiles:
    """The files of one directory.

    Args:
        directory: where they are; made as needed.
        randomness: for names.
    """

    def __init__(self, directory: Path, randomness: Randomness) -> None:
        self._directory = directory
        self._randomness = randomness

    async def write(self, content: AsyncIterator[bytes], limit: int) -> BlobFile:
        """Write a file; it is durable when this returns.

        Args:
            content: its bytes.
            limit: how many there may be.

        Raises:
            TooLargeError: there are more; code `body-too-large`.
            UnavailableError: the disk is full, or fails; code `storage-unavailable`.
        """
        name = self._randomness.token_bytes(16).hex()
        path = self._path(name)
        try:
            await asyncio.to_thread(self._check_free)
            file = await asyncio.to_thread(_create, path)
            try:
                size, md5 = await _copy(content, file, limit)
                await asyncio.to_thread(_make_durable, file, path)
            except BaseException:
                await asyncio.to_thread(_discard, file, path)
                raise
        except OSError as error:
            raise UnavailableError(
                f"The file cannot be stored: {error.strerror or error}.",
                code="storage-unavailable",
            ) from None
        return BlobFile(name, size, md5)

    async def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield a part of a file.

        Raises:
            OSError: it cannot be read; it may have been replaced meanwhile.
        """
        file = await asyncio.to_thread(self._path(name).open, "rb")
        try:
            await asyncio.to_thread(file.seek, start)
            while length > 0:
                chunk = await asyncio.to_thread(file.read, min(length, _CHUNK))
                if not chunk:
                    raise OSError(f"{name} is shorter than it was")
                length -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def remove(self, names: Collection[str]) -> None:
        """Remove files; those that are gone already are none of our business."""
        if names:
            await asyncio.to_thread(self._remove, list(names))

    async def keep_only(self, names: Collection[str]) -> None:
        """Remove everything but these: what a write left that was cut off."""
        await asyncio.to_thread(self._keep_only, frozenset(names))

    def _path(self, name: str) -> Path:
        # A directory of many thousand files is slow to list.
        return self._directory / name[:2] / name

    def _check_free(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self._directory).free < MIN_FREE:
            raise UnavailableError("The disk is full.", code="storage-unavailable")

    def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                self._path(name).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("blob not removed", reason=str(error))

    def _keep_only(self, names: frozenset[str]) -> None:
        found = [each.name for each in self._directory.glob("??/*")]
        self._remove([name for name in found if name not in names])


async def _copy(content: AsyncIterator[bytes], file: IO[bytes], limit: int) -> tuple[int, bytes]:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    waiting = bytearray()
    async for part in content:
        size += len(part)
        if size > limit:
            raise TooLargeError(f"The body is larger than {limit} bytes.", code="body-too-large")
        waiting += part
        if len(waiting) >= _CHUNK:
            await asyncio.to_thread(_write, file, digest, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(_write, file, digest, bytes(waiting))
    return size, digest.digest()


def _create(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "wb", buffering=0)


def _write(file: IO[bytes], digest: hashlib._Hash, chunk: bytes) -> None:
    digest.update(chunk)
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _make_durable(file: IO[bytes], path: Path) -> None:
    os.fsync(file.fileno())
    file.close()
    for directory in (path.parent, path.parent.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(file: IO[bytes], path: Path) -> None:
    file.close()
    with contextlib.suppress(OSError):
        path.unlink()
