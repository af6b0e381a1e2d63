"""The container engine, as checks ask it: one call after the other, and nothing is kept."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from muster.edge.check.causes import Cause
from muster.edge.check.outcome import Problem, Result
from muster.edge.local_api.sockets import path_of

if TYPE_CHECKING:
    from muster.edge.check.surroundings import Surroundings


class EngineConnection(http.client.HTTPConnection):
    """To a Docker Engine, over its Unix socket or TCP."""

    def __init__(self, uri: str, patience_s: float = 10.0) -> None:
        self._unix = path_of(uri) if uri.startswith("unix:") else None
        super().__init__(
            "localhost" if self._unix else urlsplit(uri).netloc,
            timeout=patience_s,
        )

    def connect(self) -> None:
        """Connect, as whoever asks needs it."""
        if self._unix is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._unix))


class RefusedError(Exception):
    """The engine does not do what it was asked for; the text is its own."""


class SlowError(Problem):
    """The engine has not answered in time."""


def call(
    around: Surroundings, method: str, path: str, body: Any = None, *, patience_s: float = 10.0
) -> bytes:
    """Ask the engine for something and return its answer.

    Raises:
        RefusedError: it says no.
        Problem: skipped, for it does not answer, which is the matter of another check.
    """
    connection = EngineConnection(around.settings.engine.uri, patience_s)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.read()
    except (OSError, http.client.HTTPException) as error:
        kind = SlowError if isinstance(error, TimeoutError) else Problem
        raise kind(
            Cause.ENGINE_SILENT,
            f"no container engine answers: {error}",
            "see container-engine-uri",
            Result.SKIPPED,
        ) from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise RefusedError(_message(found) or f"HTTP {answer.status}")
    return found


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return ""
