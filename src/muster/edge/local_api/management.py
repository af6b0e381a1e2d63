"""The management API: what people's tools ask of the daemon (edge.md 3.2).

The agent is part of this process. What is for the agent alone, making modules and identities, is
therefore refused to everybody, as the official daemon refuses it to everybody but its agent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, final

from starlette.responses import Response, StreamingResponse

from muster.edge.local_api.answers import json_response, no_content, route
from muster.edge.local_api.log_range import flag, log_range, moment
from muster.errors import ForbiddenError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

    from muster.clock import Clock
    from muster.edge.engine.base import LogChunk
    from muster.edge.identity import ModuleIdentities
    from muster.edge.local_api.callers import Callers
    from muster.edge.local_api.machine import Machine
    from muster.edge.local_api.modules import Modules
    from muster.net.routing import Route

_CHUNK: Final = 64 * 1024
_FIRST: Final = "2018-06-28"
_FOR_AGENT: Final = (
    ("POST", "/modules", _FIRST),
    ("PUT", "/modules/{name}", _FIRST),
    ("DELETE", "/modules/{name}", _FIRST),
    ("POST", "/modules/{name}/prepareupdate", "2019-01-30"),
    ("POST", "/identities", _FIRST),
    ("PUT", "/identities/{name}", _FIRST),
    ("DELETE", "/identities/{name}", _FIRST),
)


class Bundles(Protocol):
    """Makes support bundles."""

    async def make(
        self, since: dt.datetime | None, until: dt.datetime | None, *, runtime_only: bool
    ) -> Path:
        """Write one and return its path; the caller removes it."""


class Reprovisions(Protocol):
    """Asks the provisioning service anew."""

    async def reprovision(self) -> None:
        """Begin; modules of another identity are replaced when it is there."""


@final
class ManagementApi:
    """Answers people.

    Args:
        callers: who is who.
        modules: what runs.
        identities: of modules.
        machine: where this runs.
        bundles: for support.
        reprovisions: see there.
        clock: tells what `1 day ago` is.
    """

    def __init__(
        self,
        callers: Callers,
        modules: Modules,
        *,
        identities: ModuleIdentities,
        machine: Machine,
        bundles: Bundles,
        reprovisions: Reprovisions,
        clock: Clock,
    ) -> None:
        self._callers = callers
        self._modules = modules
        self._identities = identities
        self._machine = machine
        self._bundles = bundles
        self._reprovisions = reprovisions
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return its operations."""
        return [
            route("GET", "/modules", _FIRST, self._list),
            route("GET", "/modules/{name}", _FIRST, self._show),
            route("POST", "/modules/{name}/start", _FIRST, self._start),
            route("POST", "/modules/{name}/stop", _FIRST, self._stop),
            route("POST", "/modules/{name}/restart", _FIRST, self._restart),
            route("GET", "/modules/{name}/logs", _FIRST, self._logs),
            route("GET", "/identities", _FIRST, self._list_identities),
            route("GET", "/systeminfo", _FIRST, self._system_info),
            route("GET", "/systeminfo/resources", "2019-11-05", self._resources),
            route("GET", "/systeminfo/supportbundle", "2020-07-07", self._support_bundle),
            route("POST", "/device/reprovision", "2019-10-22", self._reprovision),
            *(route(method, path, since, _refuse) for method, path, since in _FOR_AGENT),
        ]

    async def _list(self, _request: Request) -> Response:
        return json_response({"modules": await self._modules.details()})

    async def _show(self, request: Request) -> Response:
        return json_response(await self._modules.detail(request.path_params["name"]))

    async def _start(self, request: Request) -> Response:
        await self._modules.start(request.path_params["name"])
        return no_content()

    async def _stop(self, request: Request) -> Response:
        await self._modules.stop(request.path_params["name"])
        return no_content()

    async def _restart(self, request: Request) -> Response:
        await self._modules.restart(request.path_params["name"])
        return no_content()

    async def _logs(self, request: Request) -> Response:
        wanted = log_range(request.query_params, self._clock.now())
        chunks = await self._modules.logs(request.path_params["name"], wanted)
        # The first chunk is waited for, so that an error still has a status.
        first = await anext(chunks, None)
        return StreamingResponse(_multiplexed(first, chunks), media_type="text/plain")

    async def _list_identities(self, _request: Request) -> Response:
        found = [
            {
                "moduleId": each.module_id,
                "managedBy": "iotedge",
                "generationId": each.generation_id,
                "authType": "sas",
            }
            for each in await self._identities.all()
        ]
        return json_response({"identities": found})

    async def _system_info(self, _request: Request) -> Response:
        runtimes = await self._modules.runtimes()
        version = str(runtimes.get("docker", {}).get("version", ""))
        # Of process modules, for `iotedge check`; nobody else asks.
        shortfall = runtimes.get("process", {}).get("limitsShortfall", "")
        return json_response({**self._machine.info(version), "limits_shortfall": shortfall})

    async def _resources(self, _request: Request) -> Response:
        return json_response(self._machine.resources(await self._modules.usage()))

    async def _support_bundle(self, request: Request) -> Response:
        now = self._clock.now()
        path = await self._bundles.make(
            moment(request.query_params.get("since"), now),
            moment(request.query_params.get("until"), now),
            runtime_only=flag(request.query_params, "edge_runtime_only"),
        )
        return StreamingResponse(_read_and_removed(path), media_type="application/zip")

    async def _reprovision(self, request: Request) -> Response:
        self._callers.must_be_owner(request)
        await self._reprovisions.reprovision()
        return Response(status_code=200)


async def _read_and_removed(path: Path) -> AsyncIterator[bytes]:
    """Return the content of a file that has no name any more when the first of it is sent."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        await asyncio.to_thread(path.unlink)
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()


async def _refuse(_request: Request) -> Response:
    raise ForbiddenError("forbidden")


async def _multiplexed(
    first: LogChunk | None, chunks: AsyncIterator[LogChunk]
) -> AsyncIterator[bytes]:
    """Frame chunks as the Docker Engine does: stream, three zeros, length, data."""
    chunk = first
    while chunk is not None:
        yield bytes([chunk.stream, 0, 0, 0]) + len(chunk.data).to_bytes(4) + chunk.data
        chunk = await anext(chunks, None)
