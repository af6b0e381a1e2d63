"""Modules in containers, through a Docker Engine (edge.md 3.5)."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from muster.edge import foreign_json
from muster.edge.engine.base import (
    EngineError,
    ImageUse,
    JsonObject,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    PullPolicy,
    RegistryLogin,
    check_name,
)
from muster.edge.engine.containers import (
    OWNER,
    OWNER_LABEL,
    Demultiplexer,
    container_body,
    fingerprint,
    gateways,
    image_of,
    log_query,
    module_of,
    network_body,
)
from muster.edge.engine.engine_api import ApiError, EngineApi
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.settings import ContainerEngine

_log = structlog.get_logger(__name__)

# A pull may take an hour, but not be silent so long (seconds): a registry that is out of reach
# must not keep a device waiting that has the image already.
_SILENCE_S: Final = 300.0
_SILENCE_WITH_IMAGE_S: Final = 30.0

# After `docker stop` has killed a container, the engine still cleans up.
_STOP_MARGIN_S: Final = 60.0


class DockerEngine:
    """The port over one engine's API.

    Nothing is connected before the first call, and an engine that was away is simply called
    again: whoever calls meanwhile hears 503.
    """

    type: Final = "docker"

    def __init__(self, settings: ContainerEngine) -> None:
        self._settings = settings
        self._api = EngineApi(settings.uri)
        self._network_lock = asyncio.Lock()
        # By the name of the module that is about to be made of it: no container holds it yet.
        self._prepared: dict[str, str] = {}
        # Since this process began, also by modules that are gone again.
        self._used: set[str] = set()

    def fingerprint(self, spec: ModuleSpec) -> str:
        """Return a text that differs when a container made of the spec would differ."""
        return fingerprint(spec, elevated=self._settings.elevated)

    async def start_up(self) -> None:
        """See that the engine answers and the network of modules exists."""
        with self._errors():
            await self._api.ask("GET", "/version")
        await self._network()

    async def close(self) -> None:
        """Nothing to do: there are no connections between calls."""

    async def modules(self) -> list[Module]:
        """Return the containers that carry the owner label."""
        with self._errors():
            found = await self._containers(label=[f"{OWNER_LABEL}={OWNER}"])
            shown = await asyncio.gather(*(self._show(each["Id"]) for each in found))
        return [module_of(inspected) for inspected in shown if inspected is not None]

    async def prepare(self, spec: ModuleSpec) -> None:
        """Pull the image as the policy says; one that is here is used where that fails."""
        image = image_of(spec)
        found = await self._image(image)
        self._note(spec, found)
        await self._fetch(spec, image, here=found is not None)
        self._note(spec, await self._image(image))

    def _note(self, spec: ModuleSpec, found: dict[str, Any] | None) -> None:
        if found is not None:
            self._prepared[spec.name] = found["Id"]
            self._used.add(found["Id"])

    async def _fetch(self, spec: ModuleSpec, image: str, *, here: bool) -> None:
        if spec.pull_policy is PullPolicy.NEVER:
            return
        if here and (spec.pull_policy is PullPolicy.IF_NOT_PRESENT or "@" in image):
            return
        try:
            await self._pull(spec, image, _SILENCE_WITH_IMAGE_S if here else _SILENCE_S)
        except EngineError as error:
            if not here or error.status == 503:
                raise
            _log.warning(
                "image not pulled, using the one that is here",
                module=spec.name,
                image=image,
                reason=str(error),
            )

    async def _image(self, image: str) -> dict[str, Any] | None:
        try:
            with self._errors():
                return dict(await self._api.ask("GET", f"/images/{_image_path(image)}/json"))
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    async def image_use(self) -> ImageUse:
        """Return which images containers are made of, whoever's they are, or are about to be."""
        with self._errors():
            containers = await self._containers()
        prepared = frozenset(self._prepared.values())
        ours = (each["ImageID"] for each in containers if _is_ours(each))
        return ImageUse(
            ours=frozenset(self._used).union(ours),
            busy=prepared.union(each["ImageID"] for each in containers),
        )

    async def remove_image(self, image: str) -> bool:
        """Remove an image. Without force: the engine itself keeps what is used.

        It also keeps what has names of several repositories, which others than this runtime gave.
        """
        if image in self._prepared.values():
            return False
        with self._errors():
            try:
                await self._api.ask("DELETE", f"/images/{_image_path(image)}")
            except ApiError as error:
                if error.status == 409:
                    return False
                if error.status != 404:
                    raise
        self._used.discard(image)
        return True

    async def _pull(self, spec: ModuleSpec, image: str, silence_s: float) -> None:
        headers = {} if spec.login is None else {"X-Registry-Auth": _credentials(spec.login)}
        query = {"fromImage": image}
        with self._errors():
            loop, lines = asyncio.get_running_loop(), _Progress()
            patience = asyncio.timeout(silence_s)
            try:
                async with (
                    patience,
                    self._api.stream("POST", "/images/create", query, headers=headers) as said,
                ):
                    async for data in said:
                        lines.feed(data)
                        patience.reschedule(loop.time() + silence_s)
            except TimeoutError:
                if not patience.expired():
                    raise
                text = f"pulling {image}: nothing was heard for {silence_s:.0f} s"
                raise EngineError(text, 500) from None

    async def create(self, spec: ModuleSpec) -> None:
        """Create a container; a dead one of that name makes way (users.md 22)."""
        check_name(spec.name)
        network = await self._network()
        body = container_body(
            spec, self._settings.network.name, gateways(network), elevated=self._settings.elevated
        )
        with self._errors():
            try:
                await self._create(spec.name, body)
            except ApiError as error:
                if error.status != 409 or not await self._is_dead(spec.name):
                    raise
                await self._delete(spec.name)
                await self._create(spec.name, body)
        self._prepared.pop(spec.name, None)

    async def _is_dead(self, name: str) -> bool:
        shown = await self._show(name)
        return shown is None or shown["State"]["Status"] == "dead"

    async def _create(self, name: str, body: JsonObject) -> None:
        await self._api.ask("POST", "/containers/create", {"name": name}, body)

    async def _delete(self, name: str) -> None:
        await self._api.ask("DELETE", _path(name), {"force": "true"})

    async def start(self, name: str) -> None:
        """Start a container."""
        with self._errors():
            await self._api.ask("POST", _path(name, "start"))

    async def stop(self, name: str, patience_s: float) -> None:
        """Stop a container: its stop signal, and SIGKILL after the patience."""
        with self._errors():
            query = {"t": str(math.ceil(patience_s))}
            answer_s = patience_s + _STOP_MARGIN_S
            await self._api.ask("POST", _path(name, "stop"), query, answer_s=answer_s)

    async def remove(self, name: str) -> None:
        """Remove a container, not its volumes, as the official daemon does."""
        with self._errors():
            try:
                await self._delete(name)
            except ApiError as error:
                if error.status != 404:
                    raise

    async def processes(self, name: str) -> frozenset[int]:
        """Return what `docker top` shows: IDs in the namespace of the engine, which is ours."""
        with self._errors():
            try:
                top = await self._api.ask("GET", _path(name, "top"), {"ps_args": "-eo pid"})
            except ApiError as error:
                if error.status in (404, 409):  # not there, not running
                    return frozenset()
                raise
        return frozenset(int(row[0]) for row in top["Processes"] or [])

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what a container has written, its two streams told apart."""
        with self._errors():
            shown = await self._api.ask("GET", _path(name, "json"))
            demultiplexer = Demultiplexer(terminal=shown["Config"]["Tty"])
            path = f"/containers/{shown['Id']}/logs"
            # One that is followed may say nothing for days.
            async with (
                asyncio.timeout(None if wanted.follow else self._api.answer_s),
                self._api.stream("GET", path, log_query(wanted)) as said,
            ):
                async for data in said:
                    for chunk in demultiplexer.feed(data):
                        yield chunk

    async def inspect(self, name: str) -> JsonObject:
        """Return what `docker inspect` shows."""
        with self._errors():
            return dict(await self._api.ask("GET", _path(name, "json")))

    async def usage(self) -> list[JsonObject]:
        """Return what `docker stats` shows of running modules, in about a second."""
        running = [module.name for module in await self.modules() if module.status == "running"]
        with self._errors():
            shown = await asyncio.gather(
                *(
                    self._api.ask("GET", _path(name, "stats"), {"stream": "false"})
                    for name in running
                ),
                return_exceptions=True,
            )
        return [stats for stats in shown if not isinstance(stats, BaseException)]

    async def facts(self) -> JsonObject:
        """Return the version of the engine and of what it runs on."""
        with self._errors():
            version = await self._api.ask("GET", "/version")
        return {
            "version": version["Version"],
            "apiVersion": version["ApiVersion"],
            "os": version["Os"],
            "architecture": version["Arch"],
            "kernelVersion": version.get("KernelVersion", ""),
        }

    async def networks(self) -> dict[str, JsonObject]:
        """Return what `docker network inspect` shows."""
        with self._errors():
            listed = await self._api.ask("GET", "/networks")
            shown = [await self._api.ask("GET", f"/networks/{one['Id']}") for one in listed]
        return {one["Name"]: one for one in shown}

    # What the calls share.

    async def _containers(self, **filters: list[str]) -> list[JsonObject]:
        query = {"all": "true", "filters": _filters(**filters)}
        return list(await self._api.ask("GET", "/containers/json", query))

    async def _show(self, name: str) -> JsonObject | None:
        """Inspect a container; `None` if it is gone by now."""
        try:
            return dict(await self._api.ask("GET", _path(name, "json")))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _network(self) -> JsonObject:
        """Return the network of modules, made where it is missing."""
        name = self._settings.network.name
        with self._errors():
            # One at a time: the engine would make two of one name.
            async with self._network_lock:
                if (found := await self._find_network(name)) is not None:
                    return found
                body = network_body(self._settings.network)
                await self._api.ask("POST", "/networks/create", body=body)
                _log.info("network made", network=name)
                return await self._find_network(name) or {}

    async def _find_network(self, name: str) -> JsonObject | None:
        found = await self._api.ask("GET", "/networks", {"filters": _filters(name=[name])})
        return next((network for network in found if network["Name"] == name), None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the API into the port's, with the engine's own words."""
        try:
            yield
        except ApiError as error:
            raise EngineError(error.message, error.status) from error
        except OSError as error:
            self._api.forget_version()
            text = f"the container engine at {self._settings.uri} does not answer: {error!r}"
            raise EngineError(text, 503) from error


class _Progress:
    """What a pull says: an object a line, and an error as its last one."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            ApiError: the pull has failed. It has no status there: 404 where nothing was found.
        """
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            try:
                said = foreign_json.decode(bytes(line), dict[str, Any])
            except ForeignJsonError:
                continue
            if error := said.get("error"):
                raise ApiError(str(error), 404 if "not found" in str(error) else 500)


def _path(name: str, call: str = "") -> str:
    """Return the path of a container, or of a call on it; `name` may be an ID."""
    check_name(name)
    return f"/containers/{name}/{call}" if call else f"/containers/{name}"


def _image_path(image: str) -> str:
    return quote(image, safe="/:@")


def _filters(**filters: list[str]) -> str:
    return msgspec.json.encode(filters).decode()


def _credentials(login: RegistryLogin) -> str:
    """Return the header with which a pull proves itself (edge.md 3.5)."""
    said = {
        "username": login.username,
        "password": login.password,
        "serveraddress": login.address,
    }
    return base64.urlsafe_b64encode(msgspec.json.encode(said)).decode()


def _is_ours(listed: JsonObject) -> bool:
    return (listed["Labels"] or {}).get(OWNER_LABEL) == OWNER
