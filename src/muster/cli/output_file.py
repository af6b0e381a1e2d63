"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import contextlib
import io
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Open a file that takes its name when it is complete, and goes away when it fails.

    A link stays, what it points to is replaced. What is no file (/dev/stdout, a named pipe) is
    written to as it is.

    Args:
        path: its name.
        mode: its permissions.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    path = path.resolve()
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_text(path: Path, mode: int) -> Iterator[IO[str]]:
    """Do the same for text, in UTF-8."""
    with replacing(path, mode) as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        try:
            yield stream
        finally:
            stream.detach()
