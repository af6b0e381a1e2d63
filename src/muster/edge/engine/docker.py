"""Modules in containers, through a Docker Engine (edge.md 3.5)."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import structlog
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from muster.edge.engine.base import (
    EngineError,
    ImageUse,
    JsonObject,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    PullPolicy,
    check_name,
)
from muster.edge.engine.containers import (
    OWNER,
    OWNER_LABEL,
    Demultiplexer,
    container_body,
    error_text,
    fingerprint,
    gateways,
    image_of,
    log_query,
    module_of,
    network_body,
)
from muster.edge.settings import ContainerEngine

_log = structlog.get_logger(__name__)

# An engine that is well answers in milliseconds; one on a busy flash card may take seconds.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=120, sock_connect=10)
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(sock_connect=10)

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
        self._docker: Docker | None = None
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
            await self._client.version()
        await self._network()

    async def close(self) -> None:
        """Close the connections to the engine."""
        if self._docker is not None:
            await self._docker.close()
            self._docker = None

    async def modules(self) -> list[Module]:
        """Return the containers that carry the owner label."""
        mine = json.dumps({"label": [f"{OWNER_LABEL}={OWNER}"]})
        with self._errors():
            found = await self._client.containers.list(all=True, filters=mine)
            shown = await asyncio.gather(*(_show(container) for container in found))
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
                return await self._client.images.inspect(image)
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    async def image_use(self) -> ImageUse:
        """Return which images containers are made of, whoever's they are, or are about to be."""
        with self._errors():
            containers = await self._client.containers.list(all=True)
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
                await self._client.images.delete(image)
            except DockerError as error:
                if error.status == 409:
                    return False
                if error.status != 404:
                    raise
        self._used.discard(image)
        return True

    async def _pull(self, spec: ModuleSpec, image: str, silence_s: float) -> None:
        login = None
        if spec.login is not None:
            login = {"username": spec.login.username, "password": spec.login.password}
            if "/" not in image:  # the client library wants to see a registry beside credentials
                image = f"docker.io/library/{image}"
        with self._errors(pulling=True):
            progress = aiter(self._client.images.pull(image, auth=login, stream=True))
            while True:
                try:
                    async with asyncio.timeout(silence_s):
                        await anext(progress)
                except StopAsyncIteration:
                    return
                except TimeoutError:
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
                await self._client.containers.create(body, name=spec.name)
            except DockerError as error:
                if error.status != 409 or not await self._is_dead(spec.name):
                    raise
                await self._container(spec.name).delete(force=True)
                await self._client.containers.create(body, name=spec.name)
        self._prepared.pop(spec.name, None)

    async def _is_dead(self, name: str) -> bool:
        shown = await _show(self._container(name))
        return shown is None or shown["State"]["Status"] == "dead"

    async def start(self, name: str) -> None:
        """Start a container."""
        with self._errors():
            await self._container(name).start()

    async def stop(self, name: str, patience_s: float) -> None:
        """Stop a container: its stop signal, and SIGKILL after the patience."""
        with self._errors():
            async with asyncio.timeout(patience_s + _STOP_MARGIN_S):
                await self._container(name).stop(t=math.ceil(patience_s))

    async def remove(self, name: str) -> None:
        """Remove a container, not its volumes, as the official daemon does."""
        with self._errors():
            try:
                await self._container(name).delete(force=True)
            except DockerError as error:
                if error.status != 404:
                    raise

    async def processes(self, name: str) -> frozenset[int]:
        """Return what `docker top` shows: IDs in the namespace of the engine, which is ours."""
        with self._errors():
            try:
                top = await self._container(name).top(ps_args="-eo pid")
            except DockerError as error:
                if error.status in (404, 409):  # not there, not running
                    return frozenset()
                raise
        return frozenset(int(row[0]) for row in top["Processes"] or [])

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what a container has written, its two streams told apart."""
        with self._errors():
            shown = await self._container(name).show()
            demultiplexer = Demultiplexer(terminal=shown["Config"]["Tty"])
            # Not the client library's own call, which decodes text and forgets the stream.
            client = self._client
            async with client.session.get(
                f"{client.docker_host}/{client.api_version}/containers/{shown['Id']}/logs",
                params=log_query(wanted),
                timeout=_NO_TIMEOUT if wanted.follow else _TIMEOUT,
            ) as response:
                if response.status >= 400:
                    answer = await response.json()
                    raise EngineError(error_text(answer, response.reason), response.status)
                async for data in response.content.iter_any():
                    for chunk in demultiplexer.feed(data):
                        yield chunk

    async def inspect(self, name: str) -> JsonObject:
        """Return what `docker inspect` shows."""
        with self._errors():
            return await self._container(name).show()

    async def usage(self) -> list[JsonObject]:
        """Return what `docker stats` shows of running modules, in about a second."""
        running = [module.name for module in await self.modules() if module.status == "running"]
        with self._errors():
            shown = await asyncio.gather(
                *(self._container(name).stats(stream=False) for name in running),
                return_exceptions=True,
            )
        return [stats[0] for stats in shown if not isinstance(stats, BaseException)]

    async def facts(self) -> JsonObject:
        """Return the version of the engine and of what it runs on."""
        with self._errors():
            version = await self._client.version()
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
            listed = await self._client.networks.list()
            shown = [await (await self._client.networks.get(one["Id"])).show() for one in listed]
        return {one["Name"]: one for one in shown}

    # What the calls share.

    @property
    def _client(self) -> Docker:
        if self._docker is None:
            self._docker = Docker(url=self._settings.uri, timeout=_TIMEOUT)
        return self._docker

    def _container(self, name: str) -> DockerContainer:
        check_name(name)
        return self._client.containers.container(name)

    async def _network(self) -> JsonObject:
        """Return the network of modules, made where it is missing."""
        name = self._settings.network.name
        with self._errors():
            # One at a time: the engine would make two of one name.
            async with self._network_lock:
                if (found := await self._find_network(name)) is not None:
                    return found
                await self._client.networks.create(network_body(self._settings.network))
                _log.info("network made", network=name)
                return await self._find_network(name) or {}

    async def _find_network(self, name: str) -> JsonObject | None:
        found = await self._client.networks.list(filters={"name": name})
        return next((network for network in found if network["Name"] == name), None)

    @contextmanager
    def _errors(self, *, pulling: bool = False) -> Iterator[None]:
        """Turn the client library's errors into the port's, with the engine's own words."""
        try:
            yield
        except DockerError as error:
            if error.status == 900:  # the library's own number for no connection
                self._forget_version()
                raise EngineError(error.message, 503) from error
            status = error.status
            if pulling and not status:  # said in the stream, where it has no status
                status = 404 if "not found" in error.message else 500
            raise EngineError(error.message, status) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._forget_version()
            text = f"the container engine at {self._settings.uri} does not answer: {error!r}"
            raise EngineError(text, 503) from error

    def _forget_version(self) -> None:
        # The engine that comes back may be another one.
        if self._docker is not None:
            self._docker.api_version = "auto"


async def _show(container: DockerContainer) -> dict[str, Any] | None:
    """Inspect a container; `None` if it is gone by now."""
    try:
        return await container.show()
    except DockerError as error:
        if error.status == 404:
            return None
        raise


def _is_ours(listed: DockerContainer) -> bool:
    return (listed["Labels"] or {}).get(OWNER_LABEL) == OWNER
