"""The sockets of the local APIs: one for people, one for each module (edge.md 3.1)."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, final
from urllib.parse import urlsplit

import structlog

from muster.edge.local_api.answers import GROUP, Gate
from muster.net.http import http_protocol_factory
from muster.net.listener import Listener
from muster.net.routing import Router
from muster.net.stream import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp

    from muster.clock import Clock
    from muster.ids import Randomness
    from muster.net.routing import Route

_LIMITS: Final = Limits(connections=200, write_buffer=1024 * 1024)
"""Of one socket."""
_NAME: Final = "workload.sock"
_LONGEST: Final = 40
"""Characters of a module's name in a path: the path of a socket has 107 bytes at most."""
_log = structlog.get_logger(__name__)


def application(routes: Iterable[Route], randomness: Randomness) -> ASGIApp:
    """Return what answers the requests of one API."""
    return Router(routes, GROUP, randomness)


def path_of(uri: str) -> Path:
    """Return the path of a `unix://` URI."""
    return Path(urlsplit(uri).path)


async def serve(path: Path, mode: int, app: ASGIApp, *, most: int, clock: Clock) -> Listener:
    """Listen on a socket.

    Args:
        path: of it; its directory is made where it is not there.
        mode: of it.
        app: answers.
        most: requests at a time.
        clock: for the `Date` of answers.

    Raises:
        OSError: it cannot be.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    factory = http_protocol_factory(Gate(app, most), clock)
    return await Listener.listen_unix(path, mode, factory, _LIMITS)


@final
class WorkloadSockets:
    """The workload API as modules reach it (`agent.ports.Workload`).

    Each module has a directory of its own with one socket in it: a container that is bound to the
    directory finds the socket there also when the daemon made a new one, and no other module's.

    Args:
        directory: for the directories; whoever runs modules must be able to pass through it.
        app: the workload API.
        most: requests at a time on one socket.
        clock: see `serve`.
    """

    def __init__(self, directory: Path, app: ASGIApp, *, most: int, clock: Clock) -> None:
        self._directory = directory
        self._app = app
        self._most = most
        self._clock = clock
        self._listeners: dict[Path, Listener] = {}

    async def start_up(self) -> None:
        """Listen for modules that run since before this process began.

        Raises:
            OSError: the directory cannot be used.
        """
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for each in sorted(self._directory.iterdir()):
            if each.is_dir():
                await self._open(each / _NAME)

    def socket(self, name: str) -> Path:
        """Return where a module's socket is."""
        if len(name) > _LONGEST:
            digest = hashlib.sha256(name.encode()).hexdigest()
            name = f"{name[: _LONGEST - 17]}-{digest[:16]}"
        return self._directory / name / _NAME

    async def open(self, name: str, module_id: str) -> None:
        """Listen for a module; nothing if that is done already.

        Raises:
            OSError: it cannot be.
        """
        await self._open(self.socket(name))

    async def close(self, name: str) -> None:
        """Stop listening and remove the socket."""
        path = self.socket(name)
        listener = self._listeners.pop(path, None)
        if listener is not None:
            await listener.close(drain_s=0)
        shutil.rmtree(path.parent, ignore_errors=True)

    async def shut_down(self) -> None:
        """Stop listening; sockets stay where they are for modules that go on."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            await listener.close(drain_s=1)

    async def _open(self, path: Path) -> None:
        if path in self._listeners and _is_there(path):
            return
        lost = self._listeners.pop(path, None)
        if lost is not None:
            _log.warning(
                "a workload socket was removed by somebody, opening it again", at=str(path)
            )
            await lost.close(drain_s=0)
        self._listeners[path] = await serve(
            path, 0o666, self._app, most=self._most, clock=self._clock
        )


def _is_there(path: Path) -> bool:
    return path.exists()
