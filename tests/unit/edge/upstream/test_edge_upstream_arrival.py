"""When a device that has just started comes to its hub."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.edge.identity import DeviceIdentity
from muster.edge.upstream.arrival import AFTER_BOOT_S, AFTER_START_S, BOOT_S, Arrival
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import Link
from muster.edge.upstream.errors import UnreachableError
from muster.edge.upstream.hub import Hub
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway
from muster.edge.upstream.turn import Turn
from muster.ids import Randomness
from support.edge import SessionOwner, ShiftedClock, until
from unit.edge.upstream.session_subject import LOGIN, TUNING, Subject
from unit.edge.upstream.test_edge_upstream_ways import Counted
from unit.net.loopback import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unit.edge.upstream.upstream_peer import Peer
    from unit.net.loopback import Certificate

DEVICES = 2_000


@pytest.mark.parametrize(
    ("up_s", "spread_s"), [(1.0, AFTER_BOOT_S), (BOOT_S, AFTER_START_S), (1e7, AFTER_START_S)]
)
async def test_the_devices_of_a_site_come_one_after_the_other(up_s: float, spread_s: float) -> None:
    parts = 10
    came = Counter(
        int(parts * Arrival.of_start(up_s, Randomness()).left_s / spread_s) for _ in range(DEVICES)
    )
    assert set(came) == set(range(parts))
    # None of these tenths has much more than its share.
    assert max(came.values()) < 2 * DEVICES / parts


async def test_a_session_waits_for_it_and_says_so(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    arrival = Arrival(3600)
    subject = begin(arrival=arrival)
    await until(lambda: bool(subject.owner.links))
    assert subject.owner.links == [
        (Link.UNREACHABLE, "this device has just started and comes to its hub in 3600 s")
    ]
    # Nothing makes it come earlier, but the end of the pause.
    subject.session.hurry()
    await asyncio.sleep(0.05)
    assert peer.lines == []
    arrival.now()
    await subject.connected()


async def test_a_session_may_end_before_it(peer: Peer, begin: Callable[..., Subject]) -> None:
    subject = begin(arrival=Arrival(3600))
    await until(lambda: bool(subject.owner.links))
    await subject.session.close()
    assert peer.lines == []


@pytest.fixture
async def hub(certificate: Certificate) -> AsyncIterator[Hub]:
    made = Hub(
        DeviceIdentity(hub_host="localhost", device_id="d1", key=b"k" * 32),
        trust_bundle=certificate.certificate,
        parent_hostname=None,
        upstream_protocol="Mqtt",
        time=HubTime(ShiftedClock()),
        randomness=Randomness(),
        environment={},
        # Nobody is there.
        gateway=Gateway(host="localhost", address=HOST, mqtt_port=9, https_port=9),
        arrival=Arrival(0),
    )
    yield made
    await made.close()


async def test_what_is_asked_over_https_is_told_at_once_that_it_is_too_early(hub: Hub) -> None:
    hub._https._arrival = arrival = Arrival(3600)
    with pytest.raises(UnreachableError, match="comes to localhost in 3600 s"):
        await hub.modules().all()
    arrival.now()
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await hub.modules().all()


async def test_sessions_of_a_device_look_for_the_hub_as_often_as_one(hub: Hub) -> None:
    never = Backoff(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    pauses = Counted(**msgspec.structs.asdict(never))
    sessions = []
    for number in range(5):
        login = msgspec.structs.replace(LOGIN, module_id=f"m{number}")
        owner = SessionOwner()
        tuning = msgspec.structs.replace(TUNING, unreachable=pauses)
        sessions.append(hub.session(login, owner, tuning=tuning))
        sessions[-1].open()
        await until(lambda owner=owner: bool(owner.links))  # type: ignore[misc]
    assert pauses.together == [1, 2, 3, 4, 5]
    # Whoever has been closed looks no more.
    await sessions[0].close()
    sessions[1].hurry()
    await until(lambda: len(pauses.together) == 6)
    assert pauses.together[-1] == 4
    for session in sessions:
        await session.close()


class Abyss:
    """A way on which nothing comes back; it knows who is on it.

    Attributes:
        ended: set when all of that is given up.
    """

    def __init__(self) -> None:
        self.on_it = 0
        self.most = 0
        self.ended = asyncio.Event()

    async def open(self, *_arguments: Any) -> asyncio.Transport:
        self.on_it += 1
        self.most = max(self.most, self.on_it)
        try:
            await self.ended.wait()
        finally:
            self.on_it -= 1
        raise ConnectionResetError("nobody")


async def test_a_device_opens_one_connection_at_a_time_where_none_is_answered(hub: Hub) -> None:
    abyss = Abyss()
    dialler, hub._dialler = hub._dialler, abyss  # type: ignore[assignment]
    owners = [SessionOwner() for _ in range(4)]
    sessions = [
        hub.session(msgspec.structs.replace(LOGIN, module_id=f"m{number}"), owner)
        for number, owner in enumerate(owners)
    ]
    for session in sessions:
        session.open()
    # Those that wait say so: whoever waits for them waits no longer.
    await until(lambda: sum(bool(owner.links) for owner in owners) == 3)
    assert abyss.most == 1
    waits = {detail for owner in owners for _, detail in owner.links}
    assert waits == {"another session of this device looks for the hub"}
    # The one that has the turn goes, and one that waits: the next has it.
    await sessions[0].close()
    await sessions[2].close()
    await until(lambda: abyss.on_it == 1)
    abyss.ended.set()
    await until(lambda: all("nobody" in owners[number].links[-1][1] for number in (1, 3)))
    assert abyss.most == 1
    for session in sessions:
        await session.close()
    hub._dialler = dialler


async def test_all_may_dial_where_one_is_connected() -> None:
    connected = False
    turn = Turn(lambda: connected)
    await turn.begin()
    waiting = asyncio.ensure_future(turn.begin())
    await asyncio.sleep(0)
    connected = True
    await turn.begin()
    assert not waiting.done()
    turn.end()
    turn.end()
    await waiting


async def test_a_turn_that_comes_to_nobody_is_passed_on() -> None:
    turn = Turn(lambda: False)
    await turn.begin()
    first, second, third = (asyncio.ensure_future(turn.begin()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()  # before its turn
    turn.end()
    second.cancel()  # after it has come, and before it has gone on
    await asyncio.wait([first, second, third])
    assert first.cancelled()
    assert second.cancelled()
    assert third.result() is None


async def test_pauses_of_those_that_try_together_are_so_many_times_longer() -> None:
    pauses = Backoff(first_s=2.0, cap_s=8.0, floor_s=1.0)
    assert pauses.pause_s(2, 0.5, together=1) == 2.5
    assert pauses.pause_s(2, 0.5, together=4) == 7.0
    assert pauses.pause_s(9, 1.0, asked_s=5.0, together=4) == 29.0
