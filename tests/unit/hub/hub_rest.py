"""Calls of the REST endpoints, without a network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from muster.auth import sas_token, symmetric_keys
from muster.net.routing import Router
from muster.net.stream import PEER_CERTIFICATE
from unit.hub.hub_parts import HOST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.net.routing import Route, RouteGroup
    from unit.hub.hub_parts import Parts


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and official name, checked to be the same everywhere."""
        name = self.headers["iothub-errorcode"]
        assert self.json["Message"].startswith(f"ErrorCode:{name};")
        assert self.json["ExceptionMessage"].startswith("Tracking ID:")
        assert self.headers["x-ms-request-id"].replace("-", "") in self.json["ExceptionMessage"]
        return self.status, name


class Rest:
    def __init__(self, parts: Parts, routes: Iterable[Route], group: RouteGroup) -> None:
        self.parts = parts
        self.router = Router(routes, group, parts.randomness)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: str = "api-version=2021-04-12",
        if_match: str | None = None,
        policy: str = "iothubowner",
        authorization: str | None = None,
        host: str = HOST,
        until: int | None = None,
        headers: dict[str, str] | None = None,
        certificate: bytes | None = None,
    ) -> Reply:
        """Call; with `until`, hang up after that many lines of the body."""
        if authorization is None:
            authorization = self.token(policy)
        fields = {"host": host, **(headers or {})}
        if authorization:
            fields["authorization"] = authorization
        if if_match is not None:
            fields["if-match"] = if_match
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            PEER_CERTIFICATE: certificate,
            "headers": [(k.lower().encode(), v.encode()) for k, v in fields.items()],
        }
        import asyncio

        sent: list[dict[str, Any]] = []
        incoming = [{"type": "http.request", "body": data, "more_body": False}]
        enough = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            lines = sum(m.get("body", b"").count(b"\n") for m in sent)
            if until is not None and lines >= until:
                enough.set()

        async with asyncio.timeout(20):
            await self.router(scope, receive, send)
        start = sent[0]
        return Reply(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )

    def token(self, policy: str, host: str = HOST) -> str:
        key = symmetric_keys.decode(self.parts.hub.policies[policy].keys.primary)
        return sas_token.sign(host, key, int(self.parts.clock.time()) + 60, policy)

    async def must(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        reply = await self.call(method, path, body, **options)
        assert reply.status in (200, 204), reply.body
        return reply.json if reply.body else None


def segment(text: str) -> str:
    return quote(text, safe="")
