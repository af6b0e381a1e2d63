"""The hubs of this process as provisioning sees them.

Implements `provisioning.hubs.LinkedHub` over the hub's own domain, without HTTP in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.auth import symmetric_keys
from muster.auth.symmetric_keys import SymmetricKeys
from muster.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from muster.hub.credentials import Credentials
from muster.hub.module_rows import ArrivingModule
from muster.model import twin as twin_rules
from muster.model.identity import (
    ANY,
    MAX_STATUS_REASON,
    Authentication,
    AuthenticationType,
    Capabilities,
    DeviceRequest,
    Status,
    SymmetricKey,
)
from muster.provisioning.hubs import DeviceSnapshot, ModuleSnapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.hub.registry import Device
    from muster.hub.telemetry import Telemetry
    from muster.hub.twins import Twins
    from muster.ids import Randomness
    from muster.model.identity import ModuleIdentity, Thumbprints
    from muster.provisioning.hubs import ProvisionedDevice
    from muster.store.engine import Statement


@final
class LocalHubs:
    """Makes and finds the hubs of this process.

    Args:
        hubs: the hubs.
        telemetry: their logs.
        identities: their devices.
        modules: their modules.
        twins: their twins.
        connections: who is connected.
        clock: for the twins of devices that move in.
        randomness: for keys of modules that have none.
    """

    def __init__(
        self,
        *,
        hubs: Hubs,
        telemetry: Telemetry,
        identities: Identities,
        modules: Modules,
        twins: Twins,
        connections: Connections,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._hubs = hubs
        self._telemetry = telemetry
        self.identities = identities
        self.modules = modules
        self.twins = twins
        self.connections = connections
        self.clock = clock
        self.randomness = randomness

    async def open(self) -> None:
        """Open the logs of all hubs; call once, after `Hubs.open`."""
        for hub in self._hubs.all():
            await self._telemetry.open(hub)

    async def create(self, host: str) -> LocalHub:
        """Make a hub with its standard policies and its log.

        Raises:
            AlreadyExistsError: code `hub-exists`.
            InvalidArgumentError: the host name is malformed; code `invalid-host`.
        """
        hub = await self._hubs.create(host)
        await self._telemetry.open(hub)
        return LocalHub(hub, self)

    def get(self, host: str) -> LocalHub:
        """Return the hub of that host.

        Raises:
            NotFoundError: code `hub-not-found`.
        """
        return LocalHub(self._hubs.get(host), self)


@final
class LocalHub:
    """One hub of this process; implements `LinkedHub`."""

    def __init__(self, hub: Hub, hubs: LocalHubs) -> None:
        self._hub = hub
        self._identities = hubs.identities
        self._modules = hubs.modules
        self._twins = hubs.twins
        self._connections = hubs.connections
        self._clock = hubs.clock
        self._randomness = hubs.randomness

    @property
    def host(self) -> str:
        """Host name the devices will use."""
        return self._hub.host

    @property
    def local(self) -> bool:
        """Always: calls finish at once."""
        return True

    async def provision(
        self, device: ProvisionedDevice, also: Sequence[Statement] = (), *, known: bool = True
    ) -> bool:
        """Create the device with its twin and system modules, or update keys and capability.

        One read and nothing else when nothing differs, one write for a device that is new. A
        device that an operator disabled stays disabled: only `set_enabled` undoes that.

        Args:
            device: as it shall be.
            also: committed with the device when it is created.
            known: whether it is likely to be there; if not, creating it is tried at once.

        Returns:
            Whether it was created, and `also` written.
        """
        present = None
        if known:
            present = await self._identities.find(self._hub.id, device.device_id)
        if present is None:
            try:
                await self._identities.create(
                    self._hub.id,
                    device.device_id,
                    _request(device),
                    device.tags,
                    device.desired,
                    also=also,
                )
            except AlreadyExistsError:
                # It was there, or is since a moment ago, perhaps with other keys.
                present = await self._identities.find(self._hub.id, device.device_id)
                if present is None:
                    raise
            else:
                return True
        if not _same(present, device):
            await self._update(device)
        return False

    async def export(self, device_id: str) -> DeviceSnapshot | None:
        """Return what a migration takes along, `None` when there is no such device."""
        twins = await self._twins.of_device(self._hub.id, device_id)
        own = twins.get("")
        if own is None:
            return None
        modules = [
            ModuleSnapshot(
                module.module_id,
                module.managed_by,
                self._keys(module),
                twins[module.module_id].tags,
                twins[module.module_id].desired.properties,
                _thumbprints(module),
            )
            for module in await self._modules.of_device(self._hub.id, device_id)
            if module.module_id in twins
        ]
        return DeviceSnapshot(own.tags, own.desired.properties, modules)

    async def restore(self, device: ProvisionedDevice, snapshot: DeviceSnapshot) -> None:
        """Create the device with what it brings from its old hub, in one piece."""
        now = self._clock.now()
        await self._identities.install(
            self._hub.id,
            device.device_id,
            _request(device),
            twin_rules.new(snapshot.tags, snapshot.desired, now),
            [
                ArrivingModule(
                    module.module_id,
                    module.managed_by,
                    _credentials(module),
                    twin_rules.new(module.tags, module.desired, now),
                )
                for module in snapshot.modules
            ],
        )

    async def delete(self, device_id: str) -> None:
        """Delete the device if it is there."""
        try:
            await self._identities.delete(self._hub.id, device_id, ANY)
        except NotFoundError:
            return

    async def close(self) -> None:
        """Nothing is held: the hub lives on with its process."""

    async def is_enabled(self, device_id: str) -> bool | None:
        """Tell whether the device is enabled; `None` when there is no such device."""
        present = await self._identities.find(self._hub.id, device_id)
        return None if present is None else present.enabled

    async def set_enabled(self, device_id: str, *, enabled: bool, reason: str) -> int | None:
        """Enable or disable the device; disabling drops its sessions at once.

        Args:
            device_id: which.
            enabled: the wish.
            reason: becomes the `statusReason`, cut to its greatest length.

        Returns:
            How many sessions were dropped; `None` when there is no such device.
        """
        request = DeviceRequest(
            status=Status.ENABLED if enabled else Status.DISABLED,
            status_reason=reason[:MAX_STATUS_REASON] or None,
        )
        before = self._connections.sessions(self._hub.id, device_id)
        try:
            await self._identities.update(self._hub.id, device_id, request, ANY)
        except NotFoundError:
            return None
        if enabled:
            return 0
        # The update has had the sessions dropped; one that was just connecting is refused.
        return before - self._connections.sessions(self._hub.id, device_id)

    async def _update(self, device: ProvisionedDevice) -> None:
        request = _request(device)
        try:
            await self._identities.update(self._hub.id, device.device_id, request, ANY)
        except InvalidArgumentError as error:
            if error.code != "invalid-operation":
                raise
            # It has children and cannot stop being an edge device; its keys are no less new.
            request.capabilities = None
            await self._identities.update(self._hub.id, device.device_id, request, ANY)

    def _keys(self, module: ModuleIdentity) -> SymmetricKeys:
        pair = module.authentication.symmetric_key
        if pair is None or pair.primary_key is None or pair.secondary_key is None:
            return symmetric_keys.generate(self._randomness)
        return SymmetricKeys(pair.primary_key, pair.secondary_key)


def _thumbprints(module: ModuleIdentity) -> Thumbprints | None:
    own = module.authentication
    return own.x509_thumbprint if own.type == AuthenticationType.SELF_SIGNED else None


def _credentials(module: ModuleSnapshot) -> Credentials:
    if module.thumbprints is not None:
        return Credentials(AuthenticationType.SELF_SIGNED, None, module.thumbprints)
    return Credentials(AuthenticationType.SAS, module.keys)


def _request(device: ProvisionedDevice) -> DeviceRequest:
    pair = SymmetricKey(device.keys.primary, device.keys.secondary)
    return DeviceRequest(
        authentication=Authentication(pair, None, AuthenticationType.SAS),
        capabilities=Capabilities(device.iot_edge),
    )


def _same(present: Device, device: ProvisionedDevice) -> bool:
    return present.credentials.keys == device.keys and present.iot_edge == device.iot_edge
