"""The parts of the runtime that hang on an identity: agent, edge hub, workload API, certificates.

Nothing in here waits for the cloud once the device has been in reach of it: what is needed to start
is on the disk. When the identity becomes another one, all of this is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final, Protocol, Self, final

import msgspec
import structlog

from muster.edge.agent.agent import Agent, Surroundings
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.certificates.issuance import CertificateIssuer
from muster.edge.certificates.sealing import Sealer
from muster.edge.daemon.hub_module import HubModule
from muster.edge.daemon.metrics import serve_metrics
from muster.edge.identity import AGENT, HUB
from muster.edge.local_api.callers import Callers
from muster.edge.local_api.sockets import WorkloadSockets, application, path_of, serve
from muster.edge.local_api.workload import WorkloadApi
from muster.edge.provisioning.module_identities import RememberedModules
from muster.edge.upstream.backoff import UNREACHABLE
from muster.edge.upstream.base import HubError, Link, NoLinkError
from muster.edge.upstream.hub import Hub
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.edge.daemon.own_log import OwnLog
    from muster.edge.daemon.support_bundle import SupportBundles
    from muster.edge.engine.base import Engine
    from muster.edge.engine.module_locks import ModuleLocks
    from muster.edge.identity import DeviceIdentity, ModuleIdentity
    from muster.edge.local_api.machine import Machine
    from muster.edge.local_api.modules import Modules
    from muster.edge.settings import Settings
    from muster.edge.state import StateDirectory
    from muster.edge.upstream.arrival import Arrival
    from muster.edge.upstream.base import Owner
    from muster.edge.upstream.hub_time import HubTime
    from muster.ids import Randomness
    from muster.net.listener import Listener

_log = structlog.get_logger(__name__)
_WORKLOAD_DIRECTORY: Final = "mnt"


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What is there before the device has an identity.

    Attributes:
        settings: of the device.
        state: its files.
        engines: module runtimes.
        modules: of all of them.
        locks: of each.
        machine: it runs on.
        own_log: of this process.
        bundles: for support.
        time: of the hub.
        arrival: when a device that has been at work before comes to its hub.
        clock: of the machine.
        randomness: for everything.
    """

    settings: Settings
    state: StateDirectory
    engines: Sequence[Engine]
    modules: Modules
    locks: ModuleLocks
    machine: Machine
    own_log: OwnLog
    bundles: SupportBundles
    time: HubTime
    arrival: Arrival
    clock: Clock
    randomness: Randomness


class Watcher(Protocol):
    """Who is told what becomes of an identity. Calls must not block."""

    def hub_accepts(self) -> None:
        """The hub has let the device in."""

    def hub_refuses(self, *, starting: bool) -> None:
        """The hub does not let the device in, from the start or not any more."""

    def identities_changed(self) -> None:
        """Agent or hub have another identity than they run under: start anew."""


class _Listener:
    """An owner of a session, and the watcher who wants to know how it stands."""

    def __init__(self, owner: Owner, watcher: Watcher) -> None:
        self._owner = owner
        self._watcher = watcher
        self.desired_changed = owner.desired_changed
        self.method = owner.method
        self.message = owner.message

    def link_changed(self, link: Link, detail: str) -> None:
        if link is Link.CONNECTED:
            self._watcher.hub_accepts()
        self._owner.link_changed(link, detail)


@final
class Device:
    """The device under one identity. Make one with `start`; belongs to the running event loop.

    Attributes:
        identity: who it is.
        identities: those of its modules.
        hub_module: the edge hub.
    """

    def __init__(self, ground: Ground, identity: DeviceIdentity, watcher: Watcher) -> None:
        settings = ground.settings
        master_key = ground.state.master_key(ground.randomness)
        self.identity = identity
        self._ground = ground
        self._hub = Hub(
            identity,
            trust_bundle=settings.trust_bundle,
            parent_hostname=settings.parent_hostname,
            upstream_protocol=settings.agent.env.get("UpstreamProtocol"),
            time=ground.time,
            randomness=ground.randomness,
            arrival=ground.arrival,
            environment=os.environ,
        )
        self._watcher = watcher
        self.identities = RememberedModules(
            identity,
            self._hub.modules(),
            state=ground.state,
            master_key=master_key,
            refused=self._hub_refused,
        )
        authority = DeviceAuthority(
            settings.edge_ca,
            settings.home / "certificates",
            identity.device_id,
            clock=ground.clock,
            randomness=ground.randomness,
        )
        self.certificates = CertificateIssuer(
            authority,
            hub_host=identity.hub_host.partition(":")[0],
            device_id=identity.device_id,
            trust_bundle=settings.trust_bundle,
            clock=ground.clock,
            randomness=ground.randomness,
        )
        workload = WorkloadApi(
            Callers(ground.engines),
            self.identities,
            self.certificates,
            Sealer(master_key, ground.randomness),
            ground.modules,
        )
        self._workload = application(workload.routes(), ground.randomness)
        self._sockets = WorkloadSockets(
            settings.home / _WORKLOAD_DIRECTORY,
            self._workload,
            most=settings.sockets.workload_requests,
            clock=ground.clock,
        )
        self._shared_socket: Listener | None = None
        self._metrics: Listener | None = None
        self.hub_module: HubModule | None = None
        self._agent: Agent | None = None
        self._own: tuple[ModuleIdentity, ...] = ()
        self._checking: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, ground: Ground, identity: DeviceIdentity, watcher: Watcher) -> Self:
        """Start everything.

        Args:
            ground: see there.
            identity: who the device is.
            watcher: told what becomes of it.

        Raises:
            OSError, MusterError: the device cannot work like this.
        """
        made = cls(ground, identity, watcher)
        try:
            await made._start()
        except BaseException:  # cancelled, too: sockets and sessions are let go of
            await made.close()
            raise
        return made

    async def close_agent(self) -> None:
        """End the agent, so that nothing is started or stopped any more."""
        agent, self._agent = self._agent, None
        if self._restarting is not None:
            await asyncio.wait([self._restarting])
        if agent is not None:
            await agent.close()

    async def close(self) -> None:
        """End in good order. Modules go on, and find their sockets again."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])
        await self.close_agent()
        if self.hub_module is not None:
            await self.hub_module.close()
        await self._sockets.shut_down()
        if self._metrics is not None:
            await self._metrics.close(drain_s=0)
        if self._shared_socket is not None:
            await self._shared_socket.close(drain_s=1)
        await self._hub.close()

    # Within.

    async def _start(self) -> None:
        settings, clock = self._ground.settings, self._ground.clock
        await self._sockets.start_up()
        self._shared_socket = await serve(
            path_of(settings.sockets.workload),
            0o666,
            self._workload,
            most=settings.sockets.workload_requests,
            clock=clock,
        )
        _, hub = await self._own_identities()
        hub_module = self.hub_module = await HubModule.start(
            self._ground, self.identity, hub, self._hub, self.certificates
        )
        self._agent = self._make_agent(hub_module)
        await self._agent.start()
        self._metrics = await serve_metrics(
            self._exposition,
            settings.agent.env,
            clock=clock,
            randomness=self._ground.randomness,
        )

    def _make_agent(self, hub_module: HubModule) -> Agent:
        ground, identity = self._ground, self._own[0]
        return Agent(
            ground.settings,
            self.identity,
            Surroundings(
                engines=ground.engines,
                locks=ground.locks,
                identities=self.identities,
                workload=self._sockets,
                hub=hub_module,
                own_logs=ground.own_log,
                bundles=ground.bundles,
                connect=lambda owner: self._hub.module_session(
                    identity, _Listener(owner, self._watcher)
                ),
                restart=lambda: self._restart(hub_module),
                refused=self._hub_refused,
                clock=ground.clock,
                randomness=ground.randomness,
            ),
        )

    async def _exposition(self) -> bytes:
        """Return the metrics of agent, machine, modules and edge hub."""
        agent, hub_module = self._agent, self.hub_module
        if agent is None or hub_module is None:
            return b""
        machine, usage = self._ground.machine, await self._ground.modules.usage()
        resources = machine.resources(usage)
        usage.append(machine.own_usage())
        now = self._ground.clock.monotonic()
        return agent.metrics.exposition(resources, usage, now) + hub_module.metrics()

    def _restart(self, hub_module: HubModule) -> None:
        if self._restarting is None or self._restarting.done():
            self._restarting = spawn(self._restart_agent(hub_module), "restart of the agent")

    async def _restart_agent(self, hub_module: HubModule) -> None:
        """Begin anew with the agent; whoever asked for it has the answer by then."""
        agent = self._agent
        if agent is None:
            return
        await agent.close()
        if self._agent is agent:  # the device is not being closed
            self._agent = self._make_agent(hub_module)
            await self._agent.start()

    async def _own_identities(self) -> tuple[ModuleIdentity, ...]:
        """Return those of agent and hub: those known at once, else those that the hub makes."""
        agent, hub = self.identities.known(AGENT), self.identities.known(HUB)
        if agent is not None and hub is not None:
            self._own = agent, hub
            self._check_own()
            return self._own
        # Without them nothing can run.
        self._ground.arrival.now()
        failures = 0
        while True:
            try:
                self._own = await self.identities.ensure(AGENT), await self.identities.ensure(HUB)
            except (HubError, NoLinkError) as error:
                failures += 1
                pause_s = UNREACHABLE.pause_s(failures, _chance(self._ground.randomness))
                _log.warning("no identities yet", reason=str(error), again_s=round(pause_s, 1))
                await asyncio.sleep(pause_s)
            else:
                return self._own

    def _check_own(self) -> None:
        """See whether the hub knows agent and hub as this device remembers them."""
        if self._checking is None or self._checking.done():
            self._checking = spawn(self._check(), "identities of the runtime")

    async def _check(self) -> None:
        await self._ground.arrival.wait()
        with contextlib.suppress(HubError, NoLinkError):
            found = [await self.identities.ensure(each.module_id) for each in self._own]
            if list(map(_proof, found)) != list(map(_proof, self._own)):
                _log.info("the hub has other identities of the runtime")
                self._watcher.identities_changed()

    def _hub_refused(self, reason: str) -> None:
        _log.warning("the hub refuses this device", reason=reason)
        self._watcher.hub_refuses(starting=not self._own)
        if self._own:
            self._check_own()


def _proof(module: ModuleIdentity) -> tuple[str, bytes]:
    return module.generation_id, module.key


def _chance(randomness: Randomness) -> float:
    return int.from_bytes(randomness.token_bytes(4)) / 2**32
