"""Makes twins what configurations say, as soon as anything that matters changes.

Level-triggered: a device is looked at as a whole and only what differs is written
(`muster.hub.deployer`), so it does not matter how often, or why, it is looked at.

Two kinds of work, one worker: devices that have changed come first and are done within
milliseconds; a *sweep* over all devices a configuration targets or has been applied to goes on
between them, a small batch at a time, so that the traffic of devices never waits for it. Every five
minutes, and at the start, all configurations are swept: for what a crash kept us from hearing, and
for twins that somebody else has changed. Whatever cannot be applied to one device, or found for one
configuration, keeps nobody else from their turn (`muster.hub.setbacks`).
Sources: hub-service.md 6.5; design.md 5.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog
from msgspec import Struct

from muster.errors import UnavailableError
from muster.hub.changes import IdentityChanged, IdentityEvent, TwinChanged
from muster.hub.setbacks import Setbacks
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
"""Pause when the store does not answer."""
ALL_FAIL: Final = 3
"""Devices that fail one by one before the rest of their batch is taken to fail, too."""

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
        self._setbacks = Setbacks()
        self._wake = asyncio.Event()
        configurations.subscribe(self._configuration_changed)
        changes.subscribe(self._on_change)

    @property
    def idle(self) -> bool:
        """Whether everything that was heard of is done, or waits to be tried again."""
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
                retry = self._setbacks.next_at
                try:
                    async with asyncio.timeout_at(min(next_pass, retry or next_pass)):
                        await self._wake.wait()
                except TimeoutError:
                    self.try_again()
                    continue
            try:
                await self.step()
            except UnavailableError as error:
                _log.warning("deployments are not being applied", reason=error.message)
                await asyncio.sleep(RETRY_S)
            except Exception:  # noqa: BLE001 - without it nothing would converge again
                _log.exception("deployments are not being applied")
                await asyncio.sleep(RETRY_S)

    def sweep_all(self) -> None:
        """Look at every twin that any configuration is, or should be, something to."""
        for hub, configuration_id in self._configurations.every():
            self._sweeps.setdefault((hub, configuration_id), _Sweep())
        self._unindexed = True

    def try_again(self) -> None:
        """Look again at the devices that failed and have waited long enough."""
        for device in self._setbacks.due(asyncio.get_running_loop().time()):
            self._changed[device] = None

    async def step(self) -> None:
        """Do one batch: of devices that changed, then of one sweep.

        Raises:
            UnavailableError: the store does not answer; what was to be done still is.
        """
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
            except UnavailableError:
                self._unindexed = True
                raise
            except Exception:  # noqa: BLE001 - what an index would make fast works without it, too
                _log.exception("indexes of target conditions are not up to date; tried again later")
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
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one configuration must not stop the others
            if self._sweeps.get(key) is sweep:
                del self._sweeps[key]
            _log.warning(
                "the devices of a configuration cannot be found; tried again in the next pass",
                configuration=configuration_id,
                reason=repr(error),
                next="correct its target condition: muster deployment update, or muster "
                "configuration update",
            )
            return
        if len(found) == PAGE:
            ahead = asyncio.ensure_future(find(hub, configuration_id, found[-1], PAGE))
            ahead.add_done_callback(_look)
        await self._converge(hub, list(dict.fromkeys(each[0] for each in found)))
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
        await asyncio.gather(*(self._converge_part(hub, part) for part in parts))

    async def _converge_part(self, hub: int, device_ids: list[str]) -> None:
        try:
            await self._deployer.converge(hub, device_ids)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - who it is about is found out, and others go on
            await self._isolate(hub, device_ids, error)
        else:
            self._setbacks.done((hub, each) for each in device_ids)

    async def _isolate(self, hub: int, device_ids: list[str], error: Exception) -> None:
        """Apply to each alone what failed together; set aside those that fail again."""
        failed: list[str] = []
        for number, device_id in enumerate(device_ids if len(device_ids) > 1 else ()):
            if number == len(failed) == ALL_FAIL:
                break
            try:
                await self._deployer.converge(hub, [device_id])
            except UnavailableError:
                raise
            except Exception as again:  # noqa: BLE001 - it waits, others go on
                failed.append(device_id)
                error = again
            else:
                self._setbacks.done([(hub, device_id)])
        if len(device_ids) == 1 or failed == device_ids[:ALL_FAIL]:
            # It is not about them one by one.
            failed = device_ids
        now = asyncio.get_running_loop().time()
        self._setbacks.add([(hub, each) for each in failed], error, now)

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
            matters = self._targets.look_at_presence(ref.hub)
        if matters:
            self._changed[ref.hub, ref.device_id] = None
            self._wake.set()


def _look(future: asyncio.Future[list[Position]]) -> None:
    if not future.cancelled():
        # Looked at, so that a failure is not reported as forgotten: who waits for it hears of it.
        future.exception()
