"""Agent and edge hub as people see them beside the modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.edge.engine.base import Module, Status
from muster.edge.identity import AGENT, container_name
from muster.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from muster.clock import Clock
    from muster.edge.daemon.device import Device
    from muster.edge.daemon.own_log import OwnLog
    from muster.edge.engine.base import LogChunk, LogRange


@final
class BuiltIn:
    """Implements `local_api.modules.BuiltInModules`.

    Args:
        own_log: of this process, which is the log of both.
        clock: tells when this process began.
        device: returns the device, `None` while it has no identity.
    """

    def __init__(self, own_log: OwnLog, clock: Clock, device: Callable[[], Device | None]) -> None:
        self._own_log = own_log
        self._began = clock.now()
        self._device = device

    def modules(self) -> Sequence[Module]:
        """Return how they stand: the agent runs as soon as the daemon does."""
        agent = Module(name=container_name(AGENT), status=Status.RUNNING, started_at=self._began)
        device = self._device()
        if device is None or device.hub_module is None:
            return [agent]
        return [agent, device.hub_module.module()]

    async def restart_hub(self) -> None:
        """Restart the edge hub.

        Raises:
            UnavailableError: there is none before the device has an identity.
        """
        device = self._device()
        if device is None or device.hub_module is None:
            raise UnavailableError("this device is not provisioned yet")
        await device.hub_module.restart()

    def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what this process has logged."""
        return self._own_log.logs(name, wanted)
