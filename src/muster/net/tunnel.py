"""Connections through an HTTP proxy: CONNECT, then whatever the caller speaks (RFC 9110 9.3.6)."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Final, cast, final
from urllib.parse import unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_MAX_ANSWER: Final = 16 * 1024
_DEFAULT_PORT: Final = 80


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP proxy.

    Attributes:
        host: name or address.
        port: likewise.
        authorization: value of `Proxy-Authorization`; `None` for none.
    """

    host: str
    port: int
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Proxy(host={self.host!r}, port={self.port})"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `[http://][user:password@]host[:port]`.

        Raises:
            ValueError: it is something else.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("a proxy must be http://[USER:PASSWORD@]HOST[:PORT]")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return cls(
            host=parts.hostname, port=parts.port or _DEFAULT_PORT, authorization=authorization
        )

    @classmethod
    def of(cls, host: str, environment: Mapping[str, str]) -> Self | None:
        """Return the proxy that an environment names for HTTPS to a host, `None` for none.

        `https_proxy` and `no_proxy` count, in small letters first.

        Raises:
            ValueError: see `parse`.
        """

        def value(name: str) -> str:
            return environment.get(name) or environment.get(name.upper()) or ""

        url = value("https_proxy")
        if not url or _is_near(host, value("no_proxy")):
            return None
        return cls.parse(url)

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class TunnelError(ConnectionError):
    """The proxy does not connect there."""


@final
class Tunnel(asyncio.Protocol):
    """Asks a proxy for a connection; whoever opened it then takes the transport over.

    Args:
        proxy: which.
        host: where the connection is to lead.
        port: likewise.
    """

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self._proxy = proxy
        self._target = f"{f'[{host}]' if ':' in host else host}:{port}"
        self._answer = b""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ready(self) -> None:
        """Wait for the proxy.

        Raises:
            TunnelError: it says no, or nothing that can be understood.
        """
        await self._ready

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        cast("asyncio.Transport", transport).write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        """Take the answer; nothing follows it before we have spoken, as TLS has it."""
        self._answer += data
        if self._ready.done():
            return
        head, end, _ = self._answer.partition(b"\r\n\r\n")
        if end:
            self._decide(head.split(b"\r\n")[0].decode("latin-1"))
        elif len(self._answer) > _MAX_ANSWER:
            self._fail("its answer is too long")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the proxy is gone."""
        if not self._ready.done():
            self._fail("it hangs up")

    def _decide(self, line: str) -> None:
        words = line.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            self._fail("its answer is no HTTP")
        elif words[1].startswith("2"):
            self._ready.set_result(None)
        else:
            self._fail(f"it answers {' '.join(words[1:])[:100]}")

    def _fail(self, reason: str) -> None:
        where = f"{self._proxy.host}:{self._proxy.port}"
        self._ready.set_exception(TunnelError(f"the proxy {where} does not connect: {reason}"))


def _is_near(host: str, no_proxy: str) -> bool:
    """Tell whether a host is one of those, or below one of those, that need no proxy."""
    host = host.lower()
    names = (name.strip().lower().lstrip(".") for name in no_proxy.split(","))
    return any(name and (name == "*" or f".{host}".endswith(f".{name}")) for name in names)
