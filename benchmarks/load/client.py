"""A client that is ready at some time, and is not to be lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmarks.load.job import Device
from benchmarks.load.link import Dialler, Link


class Client(Link):
    """One connection.

    Args:
        dialler: opens it.
        tally: counts it under `closed` when it is lost.

    Attributes:
        ready: when all that comes before its work is done.
    """

    __slots__ = ("_tally", "ready")

    def __init__(self, dialler: Dialler, tally: Counter[str]) -> None:
        super().__init__(*dialler.link_arguments())
        self._tally = tally
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def closed(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        self._tally["closed"] += 1


_Client = TypeVar("_Client", bound=Client)


async def connect(
    dialler: Dialler,
    devices: Sequence[Device],
    make: Callable[[Device], _Client],
    *,
    at_once: int = 100,
) -> list[_Client]:
    """Connect devices, so many at once, and return their clients when all are ready.

    Raises:
        ConnectionError: one was not let in.
    """
    clients: list[_Client] = []
    for start in range(0, len(devices), at_once):
        wave = [make(device) for device in devices[start : start + at_once]]
        await asyncio.gather(*(dialler.open(each) for each in wave))
        await asyncio.gather(*(each.ready for each in wave))
        clients += wave
    return clients
