"""How fast what had to wait goes up (edge.md 6.3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from muster.clock import ManualClock
from muster.edge.hub.broker import UPSTREAM, Broker
from muster.edge.hub.clients import Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.line import Line
from muster.edge.hub.methods import Methods
from muster.edge.hub.queue import Entry, Key
from muster.edge.hub.queues import Queues
from muster.edge.hub.scope import local
from muster.edge.hub.twins import Twins
from muster.edge.hub.upstreams import DrainPace
from muster.edge.upstream.base import Link, Message, NoLinkError
from muster.edge.upstream.login import Login
from muster.ids import Randomness
from muster.store.sqlite import SqliteEngine
from support.edge import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from muster.edge.upstream.base import Feature

RATE = 100
BURST = RATE // 10


class Cloud:
    """A hub that takes everything at once: whatever is slow is the device.

    Attributes:
        at: when each message came, seconds of the clock, with its body.
        refused: messages for which there was no link.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.link = Link.CONNECTED
        self.at: list[tuple[float, bytes]] = []
        self.refused = 0

    def want(self, features: frozenset[Feature]) -> None:
        """Nothing to do."""

    def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def send(self, message: Message) -> None:
        if self.link is not Link.CONNECTED:
            self.refused += 1
            raise NoLinkError("no link")
        self.at.append((self._clock.monotonic(), message.body))

    def in_each_second(self) -> list[int]:
        begin = self.at[0][0]
        counts = Counter(int(at - begin) for at, _ in self.at)
        return [counts[second] for second in range(max(counts) + 1)]


class Device:
    """A client of the edge hub and its way up, under a clock that moves when the pace has it wait.

    Attributes:
        meanwhile: awaited with the seconds that it waits.
    """

    def __init__(self, queues: Queues, clock: ManualClock) -> None:
        self.queues = queues
        self.clock = clock
        self.line: Line
        self.cloud = Cloud(clock)
        self.meanwhile: Callable[[float], Awaitable[None]] | None = None

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.meanwhile is not None:
            await self.meanwhile(seconds)
        await asyncio.sleep(0)

    async def accept(self, count: int, first: int = 0) -> None:
        key = Key(UPSTREAM, self.line.ref.text, 1)
        bodies = [b"%d" % number for number in range(first, first + count)]
        await self.queues.put([Entry(key, 0, "", body) for body in bodies])

    def connect(self) -> None:
        self.line.link_changed(Link.CONNECTED, "")

    async def arrived(self, count: int) -> None:
        await until(lambda: len(self.cloud.at) >= count)


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    clock, randomness = ManualClock(), Randomness()
    engine = await SqliteEngine.open(tmp_path / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, clock, max_bytes=1 << 30, ttl_s=7200)
    clients, broker = Clients(clock), Broker(queues, "edge", clock, randomness)
    made = Device(queues, clock)
    made.line = Line(
        local("edge", "m"),
        Login(hub_host="hub", device_id="edge", module_id="m", key=b""),
        queues=queues,
        twins=Twins(engine, clients, broker),
        clients=clients,
        methods=Methods(clients, randomness),
        pace=DrainPace(clock, RATE, made.sleep),
        refused=lambda _login, _why: None,
    )
    cloud: Any = made.cloud
    made.line.open(cloud)
    yield made
    await made.line.close()
    await queues.flush()
    await engine.close()


@pytest.mark.parametrize("age_s", [0, 3600], ids=["just accepted", "old"])
async def test_a_backlog_goes_up_at_the_pace_however_old_it_is(device: Device, age_s: int) -> None:
    count = 20 * RATE
    await device.accept(count)
    device.clock.advance(age_s)
    device.connect()
    await device.arrived(count)
    each = device.cloud.in_each_second()
    assert max(each) <= RATE + BURST
    # It is no slower either: twenty seconds' worth, less what may go at once.
    assert len(each) in (20, 21)
    assert [body for _, body in device.cloud.at] == [b"%d" % number for number in range(count)]


async def test_what_comes_in_meanwhile_makes_a_backlog_last_no_longer(device: Device) -> None:
    # More comes in than the pace has go, so at the pace alone there would be no end.
    waiting, each_second, comes_for_s = 10 * RATE, 3 * RATE, 8.0
    accepted = waiting
    await device.accept(waiting)
    began = device.clock.monotonic()

    async def more_comes(_seconds: float) -> None:
        nonlocal accepted
        took = min(device.clock.monotonic() - began, comes_for_s)
        count = waiting + int(took * each_second) - accepted
        if count:
            await device.accept(count, accepted)
            accepted += count

    device.meanwhile = more_comes
    device.connect()
    await device.arrived(waiting + int(comes_for_s * each_second))
    assert device.clock.monotonic() - began == pytest.approx(waiting / RATE, rel=0.1)
    assert max(device.cloud.in_each_second()) <= each_second + RATE + 2 * BURST


async def test_who_has_caught_up_is_not_held(device: Device) -> None:
    device.connect()
    began = device.clock.monotonic()
    for number in range(3 * RATE):
        await device.accept(1, number)
        await device.arrived(number + 1)
    assert device.clock.monotonic() == began


async def test_after_each_loss_of_the_link_the_pace_is_kept_again(device: Device) -> None:
    count = 2 * RATE
    for part in range(2):
        device.cloud.link = Link.UNREACHABLE
        device.line.link_changed(Link.UNREACHABLE, "")
        await device.accept(count, part * count)
        if part:
            await until(lambda: device.cloud.refused > 0)
        device.cloud.link = Link.CONNECTED
        device.connect()
        began = device.clock.monotonic()
        await device.arrived((part + 1) * count)
        assert device.clock.monotonic() - began == pytest.approx(2, rel=0.1)
