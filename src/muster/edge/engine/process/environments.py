"""Python environments of process modules: what `prepare` fetches, as a container's is its image.

One is made for each list of packages, the first time a module has it, and used by all that have the
same. It is never changed, so a device that is offline makes its modules again of what it has.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec
import structlog

from muster.clock import Clock, SystemClock
from muster.edge.engine.base import EngineError

_log = structlog.get_logger(__name__)

# A device on a slow line that builds packages from source is not hurried (seconds).
_PATIENCE_S: Final = 3600.0
# One that no module has used for so long (seconds) is removed.
_UNUSED_S: Final = 7 * 86400.0

_READY: Final = "muster.ready"
_LINES_OF_TROUBLE: Final = 3
_NOT_FOUND: Final = ("No matching distribution found", "is not a valid URL or path")


class Packages(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment has.

    Attributes:
        requirements: as pip takes them: `temperature==1.2`.
        source: a directory of wheels, or the URL of an index; `None` for pip's own configuration.
    """

    requirements: tuple[str, ...]
    source: str | None = None


class Environments:
    """The environments of a device.

    Args:
        home: directory of all of them; made where it is missing.
        clock: tells how long one was not used.
    """

    def __init__(self, home: Path, clock: Clock | None = None) -> None:
        self._home = home
        self._clock = clock or SystemClock()
        self._making: dict[Path, asyncio.Lock] = {}

    def path(self, packages: Packages) -> Path:
        """Return where the environment is, or will be."""
        # Compiled packages are of one Python, so another one makes another environment.
        told = msgspec.json.encode((packages, sys.version, sys.executable))
        return self._home / hashlib.sha256(told).hexdigest()[:24]

    def is_ready(self, packages: Packages) -> bool:
        """Return whether it can be used, which keeps it for the time being."""
        try:
            os.utime(self.path(packages) / _READY, (self._clock.time(), self._clock.time()))
        except OSError:
            return False
        return True

    async def make(self, packages: Packages) -> None:
        """Make one, or see that it is there.

        Raises:
            EngineError: 404, a package is nowhere to be found; 500, whatever else pip says.
        """
        path = self.path(packages)
        async with self._making.setdefault(path, asyncio.Lock()):
            if await asyncio.to_thread(self.is_ready, packages):
                return
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            _log.info("making a Python environment", packages=packages.requirements)
            await _run(sys.executable, "-m", "venv", "--without-pip", str(path))
            await _run(
                *(sys.executable, "-m", "pip", "--python", str(path / "bin" / "python")),
                *("install", "--quiet", "--no-input", "--disable-pip-version-check"),
                *_source(packages.source),
                *("--", *packages.requirements),
            )
            await asyncio.to_thread((path / _READY).touch)

    def sweep(self) -> None:
        """Remove those that were not made whole, and those that nobody has used for a week."""
        self._home.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path in self._home.iterdir():
            try:
                unused_s = self._clock.time() - (path / _READY).stat().st_mtime
            except OSError:
                unused_s = _UNUSED_S
            if unused_s >= _UNUSED_S:
                shutil.rmtree(path, ignore_errors=True)


def _source(source: str | None) -> list[str]:
    if source is None:
        return []
    if source.startswith("/"):
        return ["--no-index", "--find-links", source]
    return ["--index-url", source]


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            said, _ = await process.communicate()
    except BaseException as error:  # cancelled, too: it must not run on
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            text = f"{command[2]} did not end in {_PATIENCE_S:.0f} s"
            raise EngineError(text, 500) from None
        raise
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()
        last = " ".join(text.splitlines()[-_LINES_OF_TROUBLE:])
        raise EngineError(last, 404 if any(words in text for words in _NOT_FOUND) else 500)
