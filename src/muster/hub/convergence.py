"""Makes twins what configurations say, as soon as anything that matters changes.

Level-triggered: a device is looked at as a whole and only what differs is written
(`muster.hub.deployer`), so it does not matter how often, or why, it is looked at.

Two kinds of work, one worker: devices that have changed come first and are done within
milliseconds; a *sweep* over all devices a configuration targets or has been applied to goes on
between them, a small batch at a time, so that the traffic of devices never waits for it. Every five
minutes, and at the start, all configurations are swept: for what a crash kept us from hearing, and
for twins that somebody else has changed. Sources: hub-service.md 6.5; design.md 5.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog
from msgspec import Struct

from muster.errors import MusterError
from muster.hub.changes import IdentityChanged, IdentityEvent, TwinChanged
from muster.model.configuration import Kind

if TYPE_CHECKING:
    from muster.hub.changes import Change, Changes
    from muster.hub.configurations import Configurations
    from muster.hub.deployer import Deployer
    from muster.hub.query_indexes import QueryIndexes
    from muster.hub.targets import Position, Targets

BATCH: Final = 100
"""Devices in one transaction, so that the event loop is never busy with it for long."""
PAGE: Final = 8 * BATCH
"""Devices at a time: while one batch is being written, the next one is computed."""
PASS_EVERY_S: Final = 300.0
RETRY_S: Final = 1.0
"""Pause when a batch failed."""

_log = structlog.get_logger(__name__)


class _Sweep(Struct):
    """How far the sweep of a configuration has come.

    Attributes:
        newcomers: it has come to the twins the configuration targets but is nothing to yet; before
            that come those it is something to.
        after: the last one that is done.
        ahead: the page after that, being looked for while the one before is written.
    """

    newcomers: bool = False
    after: Position = ("", "")
    ahead: asyncio.Future[list[Position]] | None = None


@final
class Convergence:
    """The worker.

    Args:
        configurations: all there are; every change of one is swept.
        targets: finds the devices.
        deployer: makes them what they should be.
        indexes: has one for each target condition.
        changes: tells which devices have changed.
    """

    def __init__(
        self,
        configurations: Configurations,
        targets: Targets,
        deployer: Deployer,
        indexes: QueryIndexes,
        changes: Changes,
    ) -> None:
        self._configurations = configurations
        self._targets = targets
        self._deployer = deployer
        self._indexes = indexes
        self._unindexed = True
        self._changed: dict[tuple[int, str], None] = {}
        self._sweeps: dict[tuple[int, str], _Sweep] = {}
        self._wake = asyncio.Event()
        configurations.subscribe(self._configuration_changed)
        changes.subscribe(self._on_change)

    @property
    def idle(self) -> bool:
        """Whether everything that was heard of is done."""
        return not self._changed and not self._sweeps

    async def run(self) -> None:
        """Do what there is to do, for ever. The composition root runs this."""
        loop = asyncio.get_running_loop()
        next_pass = loop.time()
        while True:
            if loop.time() >= next_pass:
                next_pass = loop.time() + PASS_EVERY_S
                self.sweep_all()
            if self.idle:
                self._wake.clear()
                try:
                    async with asyncio.timeout_at(next_pass):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - without it nothing would converge again
                if not isinstance(error, MusterError):
                    _log.exception("deployments are not being applied")
                else:
                    _log.warning("deployments are not being applied", reason=error.message)
                await asyncio.sleep(RETRY_S)

    def sweep_all(self) -> None:
        """Look at every twin that any configuration is, or should be, something to."""
        for hub, configuration_id in self._configurations.every():
            self._sweeps.setdefault((hub, configuration_id), _Sweep())

    async def step(self) -> None:
        """Do one batch: of devices that changed, then of one sweep."""
        if self._changed:
            hub = next(iter(self._changed))[0]
            batch = [key for key in self._changed if key[0] == hub][:PAGE]
            for key in batch:
                del self._changed[key]
            try:
                await self._converge(hub, [device_id for _, device_id in batch])
            except BaseException:
                # Not done; what has come meanwhile is newer.
                self._changed = {**dict.fromkeys(batch), **self._changed}
                raise
        if self._unindexed:
            self._unindexed = False
            try:
                await self._indexes.keep(self._targets.conditions())
            except BaseException:
                self._unindexed = True
                raise
        if self._sweeps:
            await self._sweep_on()

    async def _sweep_on(self) -> None:
        key = next(iter(self._sweeps))
        hub, configuration_id = key
        sweep = self._sweeps[key]
        find = self._targets.newcomers if sweep.newcomers else self._targets.holders
        ahead, sweep.ahead = sweep.ahead, None
        try:
            found = await (ahead or find(hub, configuration_id, sweep.after, PAGE))
            if len(found) == PAGE:
                ahead = asyncio.ensure_future(find(hub, configuration_id, found[-1], PAGE))
                ahead.add_done_callback(_look)
            await self._converge(hub, list(dict.fromkeys(each[0] for each in found)))
        except Exception:
            # The others must not wait for it.
            if self._sweeps.get(key) is sweep:
                self._sweeps[key] = self._sweeps.pop(key)
            raise
        if self._sweeps.get(key) is not sweep:
            # It was changed meanwhile and begins again.
            return
        if len(found) == PAGE:
            sweep.after, sweep.ahead = found[-1], ahead
        elif not sweep.newcomers:
            sweep.newcomers, sweep.after = True, ("", "")
        else:
            del self._sweeps[key]

    async def _converge(self, hub: int, device_ids: list[str]) -> None:
        parts = [device_ids[start : start + BATCH] for start in range(0, len(device_ids), BATCH)]
        await asyncio.gather(*(self._deployer.converge(hub, part) for part in parts))

    def _configuration_changed(self, hub: int, configuration_id: str) -> None:
        self._deployer.forget_plans(hub)
        self._sweeps[hub, configuration_id] = _Sweep()
        self._unindexed = True
        self._wake.set()

    def _on_change(self, change: Change) -> None:
        ref = change.ref
        kinds = self._targets.kinds(ref.hub)
        if not kinds or (ref.module_id and Kind.MODULE not in kinds):
            return
        if isinstance(change, IdentityChanged):
            matters = change.event is not IdentityEvent.DELETED
        elif isinstance(change, TwinChanged):
            # Agents report all the time; only those conditions that look there make it matter.
            matters = change.reported is None or self._targets.look_at_reported(ref.hub)
        else:
            return
        if matters:
            self._changed[ref.hub, ref.device_id] = None
            self._wake.set()


def _look(future: asyncio.Future[list[Position]]) -> None:
    if not future.cancelled():
        # Looked at, so that a failure is not reported as forgotten: who waits for it hears of it.
        future.exception()
