"""Runs a fleet: brings the devices up, keeps them going, takes them down again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, final

from muster.fleet.device import Device
from muster.fleet.gate import Gate
from muster.fleet.schedule import intervals
from muster.fleet.session import padding
from muster.fleet.tally import Tally
from muster.net.timers import TimerWheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.fleet.plan import Plan
    from muster.fleet.tally import Snapshot
    from muster.ids import Randomness
    from muster.net.conversation import Failure
    from muster.net.dial import Dialler

_PRECISION_S: Final = 0.02
"""Of what the devices do; the connections' own deadlines are coarser."""
_GOODBYE_S: Final = 10.0


class SimulationError(Exception):
    """The first device could not be brought up, so the others were not tried.

    Args:
        failure: what stood in its way.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail or failure.kind)
        self.failure = failure


@final
class Simulation:
    """A fleet (`device.Fleet`). Belongs to the running event loop.

    Args:
        plan: what is to be done.
        dialler: opens the connections.
        clock: for the expiry of tokens.
        randomness: spreads what devices do over time.
    """

    def __init__(self, plan: Plan, dialler: Dialler, clock: Clock, randomness: Randomness) -> None:
        self.plan = plan
        self.dialler = dialler
        self.clock = clock
        self.wheel = TimerWheel(_PRECISION_S)
        self.gate = Gate(plan.at_once)
        self.tally = Tally(plan.count, self.now())
        self.every = intervals(plan)
        self.padding = padding(plan.size)
        self._randomness = randomness
        self._devices = [
            Device(self, plan.registration_id(number)) for number in range(1, plan.count + 1)
        ]
        self._first: asyncio.Future[Failure | None] | None = None
        self._going = plan.count
        self._over = asyncio.Event()

    # What devices see (`device.Fleet`).

    def now(self) -> float:
        """Return the loop's seconds."""
        return asyncio.get_running_loop().time()

    def chance(self) -> float:
        """Return an unpredictable number from 0 to 1."""
        return int.from_bytes(self._randomness.token_bytes(4)) / 2**32

    def settled(self, device: Device, failure: Failure | None) -> None:
        """Note how an attempt of a device came out."""
        if self._first is None or self._first.done():
            return
        if failure is None or failure.final or failure.unreachable:
            self._first.set_result(failure)

    def gone(self, device: Device) -> None:
        """Note that a device has left or failed for good."""
        self._going -= 1
        if not self._going:
            self._over.set()

    # What the caller does.

    @property
    def assigned(self) -> dict[str, list[str]]:
        """Device IDs by the hub they were assigned to."""
        found: dict[str, list[str]] = {}
        for device in self._devices:
            if device.assigned is not None:
                host, device_id = device.assigned
                found.setdefault(host, []).append(device_id)
        return found

    async def run(
        self,
        stop: asyncio.Event,
        show: Callable[[Snapshot], None],
        *,
        duration_s: float | None,
        every_s: float = 1.0,
    ) -> Snapshot:
        """Run until told to stop, the time is over, or no device is left; then disconnect all.

        The first device goes ahead, so that a wrong key or host is one error and not thousands.

        Args:
            stop: set it to end.
            show: called with a snapshot again and again.
            duration_s: of the whole; `None` for no end.
            every_s: between snapshots.

        Returns:
            The summary, with the devices in the states they were in before they were told to leave.

        Raises:
            SimulationError: the first device is refused, or there is nobody to talk to.
        """
        loop = asyncio.get_running_loop()
        end = None if duration_s is None else loop.time() + duration_s
        stopped = loop.create_task(stop.wait())  # awaited below
        over = loop.create_task(self._over.wait())  # likewise
        try:
            await self._begin({stopped, over}, end)
            while not (stopped.done() or over.done()):
                left_s = every_s if end is None else min(every_s, end - loop.time())
                if left_s <= 0:
                    break
                await asyncio.wait(
                    {stopped, over}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                show(self.tally.snapshot(loop.time()))
            return self.tally.summary(loop.time())
        finally:
            stopped.cancel()
            over.cancel()
            await self._leave()

    async def _begin(self, ends: set[asyncio.Task[bool]], end: float | None) -> None:
        loop = asyncio.get_running_loop()
        first = self._first = loop.create_future()
        self._devices[0].start()
        timeout = None if end is None else end - loop.time()
        waiting: set[asyncio.Future[Any]] = {first, *ends}
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            return
        failure = first.result()
        if failure is not None:
            raise SimulationError(failure)
        for device in self._devices[1:]:
            device.start()

    async def _leave(self) -> None:
        for device in self._devices:
            device.leave()
        await self.dialler.close(_GOODBYE_S)
