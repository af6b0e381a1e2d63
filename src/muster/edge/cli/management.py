"""A client of the daemon's management API over its Unix socket (edge.md 3.2)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote, urlencode, urlsplit

from muster.edge.cli.failures import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

_API_VERSION: Final = "2022-08-03"
_HEADER: Final = 8
_CREDENTIALS: Final = 12
"""Bytes of process, user and group ID."""
_CHUNK: Final = 64 * 1024


class NotAllowedError(CommandError):
    """This user may not use the management socket."""


@final
class Management:
    """The daemon.

    Args:
        host: URI of its management socket.
        patience_s: for each answer; `None` waits for as long as it takes.

    Raises:
        CommandError: the URI is none of a Unix socket.
    """

    def __init__(self, host: str, patience_s: float | None = 60.0) -> None:
        try:
            parts = urlsplit(host)
        except ValueError:  # brackets that hold no address
            parts = urlsplit("")
        if parts.scheme != "unix" or not parts.path:
            raise CommandError(f"{host} is no management socket", "it must be unix:///path/of.sock")
        self._path = parts.path
        self._patience_s = patience_s

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON at a path.

        Raises:
            CommandError: the daemon does not answer, or with an error.
        """
        with self._call("GET", path, query) as answer:
            return json.loads(answer.read())

    def environment(self) -> dict[str, str]:
        """Return the environment of the daemon's process: the one that listens.

        Raises:
            CommandError: nobody listens.
            PermissionError: it is another user's, or the socket is.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(self._patience_s)
            try:
                channel.connect(self._path)
            except PermissionError:
                raise
            except OSError as error:
                raise CommandError(f"{self._path}: {error.strerror or error}") from None
            credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
        process = int.from_bytes(credentials[:4], sys.byteorder)
        entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    def post(self, path: str, **query: str) -> None:
        """Have something done.

        Raises:
            CommandError: the daemon does not answer, or with an error.
        """
        with self._call("POST", path, query):
            pass

    def download(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield what is at a path.

        Raises:
            CommandError: the daemon does not answer, or with an error.
        """
        with self._call("GET", path, query) as answer:
            while chunk := answer.read(_CHUNK):
                yield chunk

    def log(self, path: str, **query: str) -> Iterator[bytes]:
        """Yield the chunks of a log, of standard output and standard error as they were written.

        Raises:
            CommandError: the daemon does not answer, or with an error.
        """
        with self._call("GET", path, query) as answer:
            while len(header := answer.read(_HEADER)) == _HEADER:
                yield answer.read(int.from_bytes(header[4:]))

    @contextlib.contextmanager
    def _call(
        self, method: str, path: str, query: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self._path, self._patience_s)
        target = f"{path}?{urlencode({'api-version': _API_VERSION, **query}, quote_via=quote)}"
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise CommandError(_message(answer.read(), answer.status))
            yield answer
        except PermissionError:
            raise NotAllowedError(
                f"The management socket {self._path} may not be used",
                "permission denied: try again with sudo, or join the group iotedge",
            ) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise CommandError(
                "The daemon does not answer",
                f"nobody listens on {self._path}",
                "see whether it runs: iotedge system status",
            ) from None
        except TimeoutError:
            raise CommandError("The daemon does not answer in time", self._path) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CommandError("The daemon broke off", f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, patience_s: float | None) -> None:
        super().__init__("localhost", timeout=patience_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _message(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"the daemon answered with HTTP {status}"
