"""The life of the daemon: what starts when, what happens when the identity changes, how it ends.

Order of a start: the management API, so that people can ask from the first moment; the identity,
from backup where there is one; then all that hangs on it (`device`). READY=1 is told as soon as
the management API answers: a device that waits for its first identity, for weeks perhaps, is not
one that has failed to start.

How it ends: the agent first, so that nothing is started again, then the edge hub with what it has
on disk. Modules are stopped on SIGTERM (edge.md 3.5) and left as they are on SIGINT.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final, TextIO, final

import structlog

from muster.edge.daemon.built_in import BuiltIn
from muster.edge.daemon.device import Device, Ground
from muster.edge.daemon.image_collection import ImageCollector
from muster.edge.daemon.runtimes import Runtimes
from muster.edge.daemon.support_bundle import SupportBundles
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.identity import ModuleIdentity
from muster.edge.local_api.callers import Callers
from muster.edge.local_api.machine import Machine
from muster.edge.local_api.management import ManagementApi
from muster.edge.local_api.modules import Modules
from muster.edge.local_api.sockets import application, path_of, serve
from muster.edge.provisioning.provisioner import Origin, Provisioner
from muster.edge.settings import DpsProvisioning
from muster.edge.state import StateDirectory
from muster.edge.upstream.base import NoLinkError
from muster.edge.upstream.errors import UpstreamError
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.registration import Registrar
from muster.errors import ConflictError, InvalidArgumentError, MusterError, UnavailableError
from muster.net.tasks import spawn
from muster.observe.notify import notify

if TYPE_CHECKING:
    from pathlib import Path

    from muster.clock import Clock
    from muster.edge.daemon.own_log import OwnLog
    from muster.edge.provisioning.provisioner import Provisioned
    from muster.edge.settings import Settings
    from muster.edge.upstream.arrival import Arrival
    from muster.ids import Randomness
    from muster.net.listener import Listener

_AGAIN_S: Final = 10.0
"""After the parts of a device could not be started."""
_HOME_MODE: Final = 0o711
"""Modules that run as other users pass through to their own directories and sockets."""
_LOCK: Final = "daemon.lock"
_log = structlog.get_logger(__name__)


class InUseError(Exception):
    """Another daemon has the home directory."""


@final
class Daemon:
    """The edge runtime of one device. Belongs to the running event loop.

    Args:
        settings: of the device.
        own_log: where this process logs.
        arrival: when a device that has been at work before comes to its services.
        clock: of the machine.
        randomness: for everything.

    Raises:
        InvalidArgumentError: the settings cannot be used.
        OSError: the home directory cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        own_log: OwnLog,
        arrival: Arrival,
        *,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        if settings.provisioning is None:
            raise InvalidArgumentError(
                f"{settings.source}: provisioning.source: a device without a hub has no modules"
            )
        settings.home.mkdir(mode=_HOME_MODE, parents=True, exist_ok=True)
        if stat.S_IMODE(settings.home.stat().st_mode) != _HOME_MODE:
            settings.home.chmod(_HOME_MODE)
        self._settings = settings
        self._own_log = own_log
        self._arrival = arrival
        self._clock = clock
        self._randomness = randomness
        self._time = HubTime(clock)
        self._state = StateDirectory(settings.home)
        self._runtimes = Runtimes(settings, self._renew)
        self._built_in = BuiltIn(own_log, clock, lambda: self._device)
        self._locks = ModuleLocks()
        self._modules = Modules(self._runtimes.engines, self._built_in, self._locks)
        self._machine = Machine(settings, clock)
        self._images = ImageCollector(
            settings.image_collection, self._runtimes.engines, self._state, clock
        )
        self._bundles = SupportBundles(self._modules, self._machine, clock)
        registrar = None
        if isinstance(settings.provisioning, DpsProvisioning):
            registrar = Registrar(
                settings.provisioning,
                settings.trust_bundle,
                self._time,
                environment=os.environ,
            )
        self._provisioner = Provisioner(
            settings.provisioning,
            settings.reprovisioning,
            self._state,
            registrar,
            arrival=arrival,
            owner=self,
            randomness=randomness,
        )
        self._registers = registrar is not None
        self._found: Provisioned | None = None
        self._device: Device | None = None
        self._changed = asyncio.Event()
        self._management: Listener | None = None
        self._lock: TextIO | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, reprovision: bool = False) -> None:
        """Start; returns when the management API answers, whether there is an identity or not.

        Args:
            reprovision: ask the provisioning service before anything else.

        Raises:
            OSError: the management socket cannot be opened.
            InUseError: another daemon has this home directory.
        """
        self._lock = _locked(self._settings.home)
        await self._runtimes.start_up()
        api = ManagementApi(
            Callers(self._runtimes.engines),
            self._modules,
            identities=self,
            machine=self._machine,
            bundles=self._bundles,
            reprovisions=self,
            clock=self._clock,
        )
        self._management = await serve(
            path_of(self._settings.sockets.management),
            0o660,
            application(api.routes(), self._randomness),
            most=self._settings.sockets.management_requests,
            clock=self._clock,
        )
        self._tasks = [
            spawn(self._live(reprovision=reprovision), "device"),
            spawn(self._runtimes.watch(), "runtimes"),
            spawn(self._images.watch(), "images"),
        ]
        notify("READY=1")

    async def failed(self) -> None:
        """Return when something has failed that should not: only another process can help."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def close(self, *, stop_modules: bool) -> None:
        """End in good order.

        Args:
            stop_modules: stop them, too; otherwise they go on as they are.
        """
        notify("STOPPING=1")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._provisioner.close()
        if self._device is not None:
            await self._device.close_agent()
        if stop_modules:
            await self._runtimes.stop_modules()
        if self._device is not None:
            await self._device.close()
        if self._management is not None:
            await self._management.close(drain_s=1)
        await self._runtimes.close()
        if self._lock is not None:
            self._lock.close()

    # The device.

    async def _live(self, *, reprovision: bool) -> None:
        self._found = await self._provisioner.start(reprovision=reprovision)
        while True:
            self._changed.clear()
            found = self._found
            _log.info(
                "provisioned",
                hub=found.identity.hub_host,
                device=found.identity.device_id,
                origin=found.origin.value,
            )
            notify(f"STATUS={found.identity.device_id} of {found.identity.hub_host}")
            if found.origin is Origin.REGISTERED:
                self._arrival.now()
            if found.moved and await self._runtimes.remove_modules():
                _log.info("modules of the identity before are gone")
                await self._provisioner.settled()
            await self._run(found)
            await self._runtimes.start_up()

    async def _run(self, found: Provisioned) -> None:
        """Run the device under an identity until something about it changes."""
        starting = spawn(self._start_device(found), "start of the device")
        changing = spawn(self._changed.wait(), "change of the device")
        try:
            await asyncio.wait([starting, changing], return_when=asyncio.FIRST_COMPLETED)
            await changing
        finally:
            for task in (starting, changing):
                task.cancel()
            await asyncio.wait([starting, changing])
            if self._changed.is_set() and self._device is not None:
                device, self._device = self._device, None
                await device.close()

    async def _start_device(self, found: Provisioned) -> None:
        told = ""
        while True:
            ground = Ground(
                settings=self._settings,
                state=self._state,
                engines=tuple(self._runtimes.engines),
                modules=self._modules,
                locks=self._locks,
                machine=self._machine,
                own_log=self._own_log,
                bundles=self._bundles,
                time=self._time,
                arrival=self._arrival,
                clock=self._clock,
                randomness=self._randomness,
            )
            try:
                self._device = await Device.start(ground, found.identity, self)
            except (MusterError, OSError, ValueError) as error:  # a proxy is a ValueError
                if str(error) != told:
                    told = str(error)
                    _log.error("the device does not start", reason=told, again_s=_AGAIN_S)
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    def _renew(self) -> None:
        self._changed.set()

    # `ProvisioningOwner`

    def provisioning_waits(self, reason: str, next_attempt_s: float) -> None:
        """Note that the service gives no identity, and why."""
        what = "not provisioned" if self._found is None else "running; not provisioned anew"
        notify(f"STATUS={what}: {reason}; again in {next_attempt_s:.0f} s")

    def provisioned(self, provisioned: Provisioned) -> None:
        """Take an identity that came while the device runs."""
        before, self._found = self._found, provisioned
        if before is not None and before.identity != provisioned.identity:
            self._renew()

    # `device.Watcher`

    def hub_accepts(self) -> None:
        """The hub has let the device in."""
        self._provisioner.hub_accepted()

    def hub_refuses(self, *, starting: bool) -> None:
        """The hub does not let the device in."""
        self._provisioner.hub_refused(starting=starting)

    def identities_changed(self) -> None:
        """Agent or hub have another identity than they run under."""
        self._renew()

    # `local_api.management.Reprovisions`

    async def reprovision(self) -> None:
        """Ask the provisioning service now.

        Raises:
            ConflictError: the identity was given by hand.
            UnavailableError: the service gives none; the one there is stays.
        """
        if not self._registers:
            raise ConflictError("this device was provisioned by hand; there is nobody to ask")
        try:
            await self._provisioner.reprovision()
        except UpstreamError as error:
            raise UnavailableError(f"not provisioned: {error.message}") from None

    # `identity.ModuleIdentities`, for people

    async def all(self) -> list[ModuleIdentity]:
        """Return the identities of this device's modules.

        Raises:
            NoLinkError: the device has no identity yet.
        """
        return await self._ready().identities.all()

    async def ensure(self, module_id: str) -> ModuleIdentity:
        """See `ModuleIdentities`."""
        return await self._ready().identities.ensure(module_id)

    async def remove(self, module_id: str) -> None:
        """See `ModuleIdentities`."""
        await self._ready().identities.remove(module_id)

    def _ready(self) -> Device:
        if self._device is None:
            raise NoLinkError("this device is not provisioned yet")
        return self._device


def _locked(home: Path) -> TextIO:
    """Return an open file that keeps other daemons out of a home directory.

    Raises:
        InUseError: one is in it.
    """
    path = home / _LOCK
    try:
        file = path.open("a")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        # People are told of a disk that failed, and what runs goes on: a lock needs no writing.
        file = path.open()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InUseError(f"another daemon runs with {home}") from None
    return file
