"""What blocking clients of any protocol stand on: TLS on its port, or a WebSocket on 443."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Self

from support.https import open_tls
from support.websocket import WebSocket

if TYPE_CHECKING:
    from types import TracebackType

    from support.certificates import ClientCertificate
    from support.instance import Instance

PATIENCE_S = 20.0
"""How long an answer may take before the test gives up. Never what a test measures."""


class RawClient:
    """One connection, of which whoever inherits makes sense."""

    def __init__(
        self,
        instance: Instance,
        host: str,
        port: int,
        *,
        websocket: tuple[str, str] | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        """Connect to `host`; `websocket` is path and sub-protocol, and then the port is 443's."""
        place = instance.place
        self._websocket: WebSocket | None = None
        port = port if websocket is None else place.https_port
        self._tls = open_tls(place, port, instance.ca_file, host, certificate)
        if websocket is not None:
            path, subprotocol = websocket
            try:
                self._websocket = WebSocket(self._tls, host + path, subprotocol)
            except BaseException:
                self._tls.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Close the connection without a word of its protocol."""
        if self._websocket is not None:
            with contextlib.suppress(OSError):
                self._websocket.close()
        self._tls.close()

    def send_bytes(self, data: bytes) -> None:
        if self._websocket is not None:
            self._websocket.send(data)
        else:
            self._tls.sendall(data)

    def _read(self, timeout_s: float) -> bytes:
        """Return what comes next; nothing once the service has closed the connection."""
        if timeout_s <= 0:
            raise TimeoutError("nothing came")
        self._tls.settimeout(timeout_s)
        try:
            if self._websocket is not None:
                return self._websocket.receive()
            return self._tls.recv(65_536)
        except (ConnectionError, ssl.SSLError) as error:
            if isinstance(error, ssl.SSLError) and "timed out" in str(error):
                raise TimeoutError from error
            return b""
