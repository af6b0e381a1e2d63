"""The direct methods of `$edgeAgent`, which people manage a device by from afar (edge.md 5.4)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from muster.clock import Clock
from muster.edge.agent import patterns, requests
from muster.edge.agent.blob_upload import Container, UploadError, blob_name
from muster.edge.agent.errands import Errands
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.log_lines import Lines, LogLine, LogSource, Rendering
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.performer import StepError
from muster.edge.agent.ports import EdgeHub, OwnLogs, SupportBundles
from muster.edge.agent.reconciler import Reconciler
from muster.edge.agent.requests import BadRequestError, LogItem, VersionError
from muster.edge.engine.base import EngineError, LogChunk
from muster.edge.identity import AGENT, HUB, container_name

JsonObject: TypeAlias = dict[str, Any]

MAX_ANSWER: Final = 127_000
"""Bytes of logs in an answer: one of 128 KiB less what stands around them."""

_AGENT: Final = container_name(AGENT)
_HUB: Final = container_name(HUB)
_READ_SIZE: Final = 256 * 1024
_TOO_LARGE: Final = (
    f"The payload is too large for a direct method. GetModuleLogs supports up to {MAX_ANSWER} "
    "bytes of logs. The current request returned more.\nTry reducing the size of the logs by "
    "setting the 'tail', 'since' and 'until' fields in log options filter."
)

_log = structlog.get_logger(__name__)


class Methods:
    """Answers direct methods. Their names count in any case."""

    def __init__(
        self,
        reconciler: Reconciler,
        inventory: Inventory,
        *,
        hub: EdgeHub,
        restart: Callable[[], None],
        own_logs: OwnLogs,
        bundles: SupportBundles,
        errands: Errands,
        hub_host: str,
        device_id: str,
        trust: Callable[[], ssl.SSLContext],
        metrics: AgentMetrics,
        timeout_s: Callable[[], float],
        clock: Clock,
    ) -> None:
        """Take what is needed.

        Args:
            reconciler: restarts modules.
            inventory: of the modules.
            hub: the edge hub, one module more.
            restart: begins anew with the agent itself; its answer goes out before.
            own_logs: of the two modules that are this process.
            bundles: makes support bundles.
            errands: what takes longer than an answer may.
            hub_host: of the assigned hub.
            device_id: of this device.
            trust: makes the TLS context of uploads.
            metrics: of the agent.
            timeout_s: tells the longest that an answer takes.
            clock: tells the time.
        """
        self._reconciler: Final = reconciler
        self._inventory: Final = inventory
        self._hub: Final = hub
        self._restart_agent: Final = restart
        self._own_logs: Final = own_logs
        self._bundles: Final = bundles
        self._errands: Final = errands
        self._hub_host: Final = hub_host
        self._device_id: Final = device_id
        self._trust: Final = trust
        self._metrics: Final = metrics
        self._timeout_s: Final = timeout_s
        self._clock: Final = clock
        self._table: Final[dict[str, Callable[[Any], Awaitable[Any]]]] = {
            "ping": self._ping,
            "RestartModule": self._restart,
            "GetModuleLogs": self._get_logs,
            "UploadModuleLogs": self._upload_logs,
            "UploadSupportBundle": self._upload_bundle,
            "GetTaskStatus": self._task_status,
        }
        self._by_lower_name: Final = {name.lower(): name for name in self._table}

    async def answer(self, name: str, payload: Any) -> tuple[int, Any]:
        """Answer one: status and payload."""
        ours = self._by_lower_name.get(name.lower())
        if ours is None:
            known = ",".join(self._table)
            message = f"Command '{name}' not found. The supported commands are - {known}"
            return 400, {"message": message}
        self._metrics.called(ours)
        timeout_s = self._timeout_s()
        try:
            async with asyncio.timeout(timeout_s):
                return 200, await self._table[ours](payload)
        except BadRequestError as error:
            return 400, {"message": str(error)}
        except TimeoutError:
            return 500, {"message": f"it took longer than {timeout_s:g} s"}
        except (VersionError, StepError, EngineError, LookupError, OSError) as error:
            return 500, {"message": str(error)}
        except Exception:  # noqa: BLE001 - a method must be answered, whatever goes wrong
            _log.exception("a direct method failed", method=name)
            return 500, {"message": "internal error; the device's log has more"}

    async def close(self) -> None:
        """Break off what is under way."""
        await self._errands.close()

    async def _ping(self, payload: Any) -> None:
        return None

    async def _restart(self, payload: Any) -> None:
        name = requests.restart(payload)
        _log.info("the hub asks for the restart of a module", module=name)
        if name == _HUB:
            await self._hub.restart()
        elif name == _AGENT:
            self._restart_agent()
        else:
            try:
                await self._reconciler.restart(name)
            except LookupError:
                raise LookupError(f"Module {name} not found in the current environment") from None

    async def _task_status(self, payload: Any) -> JsonObject:
        return self._errands.status(requests.task_status(payload))

    # Logs.

    async def _get_logs(self, payload: Any) -> list[JsonObject]:
        wanted = requests.logs(payload, self._clock.now(), upload=False)
        answers: list[JsonObject] = []
        size = 0
        for name, item in await self._matches(wanted):
            content = bytearray()
            async with aclosing(self._rendered(name, item, wanted)) as rendered:
                async for data in rendered:
                    content += data
                    if size + len(content) > MAX_ANSWER:
                        raise BadRequestError(_TOO_LARGE)
            size += len(content)
            if wanted.compressed:
                answers.append({"id": name, "payloadBytes": base64.b64encode(content).decode()})
            else:
                answers.append({"id": name, "payload": content.decode(errors="replace")})
        return answers

    async def _upload_logs(self, payload: Any) -> JsonObject:
        wanted = requests.logs(payload, self._clock.now(), upload=True)
        container = await self._container(wanted.sas_url)
        matches = await self._matches(wanted)
        extension = f"{'json' if wanted.as_json else 'log'}{'.gz' if wanted.compressed else ''}"

        async def upload() -> None:
            # One after the other: the memory of a device is small.
            for name, item in matches:
                async with aclosing(self._rendered(name, item, wanted)) as rendered:
                    await container.upload(
                        self._blob_name(name, extension),
                        rendered,
                        content_type="application/json" if wanted.as_json else "text/plain",
                        content_encoding="gzip" if wanted.compressed else None,
                    )

        return self._errands.begin("upload logs", upload())

    async def _matches(self, wanted: requests.LogsRequest) -> list[tuple[str, LogItem]]:
        """Return the modules that are asked for, each with the first item that asks for it."""
        names = sorted([_AGENT, _HUB, *await self._inventory.names()])
        found: dict[str, LogItem] = {}
        for item in wanted.items:
            async with _searching("id", item.modules, fold=True) as search:
                for name, is_asked_for in zip(names, await search(names), strict=True):
                    if is_asked_for:
                        found.setdefault(name, item)
            if item.chosen.pattern is not None:
                async with _searching("regex", item.chosen.pattern):
                    pass  # it is one, and whoever sent it need not wait to hear that it is none
        return sorted(found.items(), key=lambda match: match[0])

    async def _rendered(
        self, name: str, item: LogItem, wanted: requests.LogsRequest
    ) -> AsyncGenerator[bytes]:
        source = LogSource(hub_host=self._hub_host, device_id=self._device_id, module_id=name)
        rendering = Rendering(
            source, item.chosen, as_json=wanted.as_json, compressed=wanted.compressed
        )
        lines = Lines()
        async with _searching("regex", item.chosen.pattern or "") as search:
            # In threads, for the loop has other things to do.
            async for chunk in self._chunks(name, item):
                whole = await asyncio.to_thread(list, lines.feed(chunk))
                found = await search([line.text for line in whole])
                yield await asyncio.to_thread(_render, rendering, whole, found)
            rest = list(lines.rest())
            yield _render(rendering, rest, await search([line.text for line in rest]))
        yield await asyncio.to_thread(rendering.end)

    async def _chunks(self, name: str, item: LogItem) -> AsyncIterator[LogChunk]:
        if name in {_AGENT, _HUB}:
            source = self._own_logs.logs(name, item.range)
        else:
            source = await self._inventory.logs(name, item.range)
        held: LogChunk | None = None
        # A runtime gives a line at a time; a hop to a thread for each of them would cost more than
        # all else.
        async for chunk in source:
            if held is None:
                held = chunk
            elif held.stream == chunk.stream and len(held.data) < _READ_SIZE:
                held = LogChunk(held.stream, held.data + chunk.data)
            else:
                yield held
                held = chunk
        if held is not None:
            yield held

    # Support bundles.

    async def _upload_bundle(self, payload: Any) -> JsonObject:
        wanted = requests.bundle(payload, self._clock.now())
        container = await self._container(wanted.sas_url)

        async def upload() -> None:
            path = await self._bundles.make(
                wanted.since, wanted.until, runtime_only=wanted.runtime_only
            )
            try:
                await container.upload(
                    self._blob_name("support-bundle", "zip"),
                    _content(path),
                    content_type="application/zip",
                    content_encoding="zip",
                )
            finally:
                await asyncio.to_thread(path.unlink, missing_ok=True)

        return self._errands.begin("upload support bundle", upload())

    async def _container(self, sas_url: str) -> Container:
        try:
            return Container(sas_url, await asyncio.to_thread(self._trust))
        except UploadError as error:
            raise BadRequestError(str(error)) from None

    def _blob_name(self, what: str, extension: str) -> str:
        now = self._clock.now()
        return blob_name(self._hub_host, self._device_id, what, extension, now)


def _render(rendering: Rendering, lines: Iterable[LogLine], found: Iterable[bool]) -> bytes:
    return b"".join(rendering.add(line) for line in itertools.compress(lines, found))


@asynccontextmanager
async def _searching(
    what: str, pattern: str, *, fold: bool = False
) -> AsyncIterator[patterns.Search]:
    """Search for a pattern; one that is none is a bad request."""
    try:
        async with patterns.searching(pattern, fold=fold) as search:
            yield search
    except patterns.PatternError as error:
        raise BadRequestError(
            f"Error parsing command payload because of error - {what} {error}"
        ) from None


async def _content(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _READ_SIZE):
            yield data
    finally:
        await asyncio.to_thread(file.close)
