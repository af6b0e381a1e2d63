"""When a device that has been at work before comes to its services after a start.

After a power cut all devices of a site start in the same second. They have their identities and
their deployments on disk and run by them, so nothing is lost when each comes at a moment of its
own: what modules send meanwhile waits on disk.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self, final

if TYPE_CHECKING:
    from muster.ids import Randomness

AFTER_BOOT_S: Final = 20.0
"""Over which devices come whose machines have just booted: a whole site may have."""
AFTER_START_S: Final = 2.0
"""Over which devices come whose daemon alone was started."""
BOOT_S: Final = 300.0
"""A machine that has been up for less has just booted."""


@final
class Arrival:
    """The moment at which this device comes. Belongs to the running event loop.

    Args:
        pause_s: from now.
    """

    def __init__(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._come = asyncio.Event()
        self._timer = loop.call_later(pause_s, self._come.set)

    @classmethod
    def within(cls, spread_s: float, randomness: Randomness) -> Self:
        """Return a random moment within so many seconds from now."""
        return cls(spread_s * int.from_bytes(randomness.token_bytes(4)) / 2**32)

    @classmethod
    def of_start(cls, up_s: float, randomness: Randomness) -> Self:
        """Return the moment for a daemon that starts now.

        Args:
            up_s: since the machine has booted.
            randomness: spreads the moments of many devices.
        """
        return cls.within(AFTER_BOOT_S if up_s < BOOT_S else AFTER_START_S, randomness)

    @property
    def left_s(self) -> float:
        """Seconds until it comes; 0 when it has come."""
        if self._come.is_set():
            return 0.0
        return max(self._timer.when() - asyncio.get_running_loop().time(), 0.001)

    def now(self) -> None:
        """Come at once: somebody has just set this device up, or it has nothing to run by."""
        self._timer.cancel()
        self._come.set()

    async def wait(self) -> None:
        """Return when it has come."""
        await self._come.wait()
