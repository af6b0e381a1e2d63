"""The edge hub as the agent and people know it: a module called `edgeHub` that can be restarted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self, final

import structlog

from muster.edge.engine.base import Module, Status
from muster.edge.hub import database, environment
from muster.edge.hub.edge_hub import EdgeHub, HubSettings
from muster.edge.identity import HUB, container_name
from muster.errors import MusterError
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from muster.edge.certificates.issuance import CertificateIssuer, IssuedCertificate
    from muster.edge.daemon.device import Ground
    from muster.edge.identity import DeviceIdentity, ModuleIdentity
    from muster.edge.upstream.hub import Hub

_AGAIN_S: Final = 10.0
_log = structlog.get_logger(__name__)


@final
class HubModule:
    """Implements `agent.ports.EdgeHub`. Make one with `start`."""

    def __init__(
        self,
        ground: Ground,
        device: DeviceIdentity,
        identity: ModuleIdentity,
        upstream: Hub,
        certificates: CertificateIssuer,
    ) -> None:
        self._ground = ground
        self._device = device
        self._identity = identity
        self._upstream = upstream
        self._certificates = certificates
        self._env: dict[str, str] = {}
        self._settings = _own_settings(ground)
        self._turn = asyncio.Lock()
        self._hub: EdgeHub | None = None
        self._problem = ""
        self._started_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._again: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        ground: Ground,
        device: DeviceIdentity,
        identity: ModuleIdentity,
        upstream: Hub,
        certificates: CertificateIssuer,
    ) -> Self:
        """Start the edge hub.

        Where it cannot, its module says why, and it is tried again: the others run all the same.

        Args:
            ground: see there.
            device: who this device is.
            identity: of `$edgeHub`.
            upstream: its way to the hub.
            certificates: issues the one that clients see.
        """
        made = cls(ground, device, identity, upstream, certificates)
        await made._begin()
        return made

    def module(self) -> Module:
        """Return how it stands."""
        running = self._hub is not None
        return Module(
            name=container_name(HUB),
            status=Status.RUNNING if running else Status.FAILED,
            description="running" if running else self._problem,
            exit_code=0 if running else 1,
            started_at=self._started_at,
            exited_at=self._ended_at,
            settings={
                "ports": {
                    "mqtt": self._settings.mqtt_port,
                    "https": self._settings.https_port,
                    "amqp": self._settings.amqp_port,
                }
            },
        )

    def metrics(self) -> bytes:
        """Return what it counts, in the Prometheus text format; nothing while it does not run."""
        return b"" if self._hub is None else self._hub.metrics.exposition()

    async def use(self, env: Mapping[str, str]) -> None:
        """Work with the environment a deployment gives it; nothing where that changes nothing.

        Names are logged, values are not: there may be secrets among them.
        """
        if env == self._env:
            return
        self._env = dict(env)
        found = environment.read(env, _own_settings(self._ground))
        for sentence in found.wrong:
            _log.warning("the environment of edgeHub cannot be used", reason=sentence)
        if found.unused:
            _log.info("variables of edgeHub change nothing here", names=found.unused)
        if found.settings != self._settings:
            self._settings = found.settings
            _log.info("the edge hub begins anew, as the deployment has it")
            await self.restart()

    async def restart(self) -> None:
        """End its clients' connections and begin anew; what it has stored stays."""
        async with self._turn:
            await self._end()
            await self._begin()

    async def close(self) -> None:
        """End in good order."""
        async with self._turn:
            await self._end()

    # Within.

    async def _begin(self) -> None:
        self._started_at = self._ground.clock.now()
        try:
            self._hub = await EdgeHub.open(
                self._settings,
                device=self._device,
                edge_hub=self._identity,
                open_session=self._upstream.session,
                scope=self._upstream.scope(self._identity),
                registry=self._upstream.registry(self._identity),
                certificates=self._issue,
                clock=self._ground.clock,
                randomness=self._ground.randomness,
            )
        except (MusterError, OSError) as error:
            self._problem = str(error)
            self._ended_at = self._ground.clock.now()
            _log.error("the edge hub does not run", reason=self._problem, again_s=_AGAIN_S)
            damaged = isinstance(error, MusterError) and error.code == "store-damaged"
            self._again = spawn(self._begin_again(damaged=damaged), "edge hub, once more")
            return
        self._hub.start()

    async def _begin_again(self, *, damaged: bool) -> None:
        """Try once more: a disk may have room again; a database that is damaged gives way."""
        await asyncio.sleep(_AGAIN_S)
        async with self._turn:
            if damaged:
                home = self._ground.state.directory("hub").home
                _log.error(
                    "the edge hub begins without what waited in its database, put aside",
                    file=str(home / database.FILE_NAME),
                )
                try:
                    await asyncio.to_thread(database.put_aside, home)
                except OSError as error:
                    _log.error("the database cannot be put aside", reason=str(error))
            await self._begin()

    async def _end(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            again.cancel()
        hub, self._hub = self._hub, None
        if hub is not None:
            self._ended_at = self._ground.clock.now()
            self._problem = "stopped"
            await hub.stop()

    async def _issue(self) -> IssuedCertificate:
        return await asyncio.to_thread(
            self._certificates.server, HUB, self._ground.settings.hostname
        )


def _own_settings(ground: Ground) -> HubSettings:
    """Return what the device's own file says."""
    settings = ground.settings
    return HubSettings(
        hostname=settings.hostname,
        directory=ground.state.directory("hub").home,
        address=settings.edge_hub.address,
        mqtt_port=settings.edge_hub.mqtt_port,
        https_port=settings.edge_hub.https_port,
        amqp_port=settings.edge_hub.amqp_port,
    )
