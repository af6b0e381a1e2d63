"""Fleets over real TLS, against a service that does what the test says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.clock import SystemClock
from muster.fleet import schedule
from muster.fleet.plan import HubPolicy, Place, Plan
from muster.fleet.session import IN_FLIGHT
from muster.fleet.simulation import Simulation, SimulationError
from muster.ids import Randomness
from muster.net.dial import Dialler, client_context
from muster.wire.mqtt.packets import Publish
from unit.fleet.fleet_peer import GROUP_KEY, HUB, SCOPE, Peer
from unit.net.loopback import HOST, PATIENCE_S, Certificate, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from muster.fleet.tally import Snapshot
    from unit.net.net_fixtures import Listen

Start = Any


class Running:
    """A simulation in the background."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.snapshots: list[Snapshot] = []
        self._stop = asyncio.Event()
        self._task = asyncio.ensure_future(
            simulation.run(self._stop, self.snapshots.append, duration_s=None, every_s=0.02)
        )

    @property
    def tally(self) -> Any:
        return self.simulation.tally

    async def end(self) -> Snapshot:
        self._stop.set()
        return await self.over()

    async def over(self) -> Snapshot:
        async with asyncio.timeout(PATIENCE_S):
            return await self._task


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def start(
    peer: Peer, listen: Listen, certificate: Certificate
) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """Return a function that starts a simulation; fields of `Plan` may be given."""
    listener = await listen(peer.line)
    running: list[Running] = []

    async def begin(**fields: Any) -> Running:
        place = Place(name="localhost", address=HOST, port=listener.port)
        plan = Plan(
            **{
                "count": 3,
                "prefix": "d",
                "dps": place,
                "id_scope": SCOPE,
                "group_key": GROUP_KEY,
                "hubs": {HUB: place},
                "rate": 0.0,
                "report_every_s": 0.0,
                **fields,
            }
        )
        dialler = Dialler(client_context(certificate.certificate))
        running.append(Running(Simulation(plan, dialler, SystemClock(), Randomness())))
        return running[-1]

    yield begin
    for each in running:
        await asyncio.gather(each.end(), return_exceptions=True)


async def test_devices_register_connect_and_leave(peer: Peer, start: Start) -> None:
    fleet = await start(count=12, at_once=4)
    await until(lambda: len(peer.lines) == 12)
    await until(lambda: fleet.tally.twin_reports == 12)
    summary = await fleet.end()
    names = [f"d{number:02}" for number in range(1, 13)]
    assert sorted(peer.registered) == names
    assert sorted(peer.goodbyes) == names
    assert peer.lines == {}
    assert summary.states == {"connected": 12}
    assert (summary.provisioned, summary.registrations) == (12, 12)
    assert summary.desired_versions == {"1": 12}
    assert summary.errors == {}
    assert sorted(fleet.simulation.assigned[HUB]) == names
    assert fleet.simulation.tally.states["left"] == 12


async def test_connect_is_that_of_a_device(peer: Peer, start: Start) -> None:
    await start(count=1)
    await until(lambda: "d1" in peer.lines)
    connect = peer.connects["d1"][0]
    assert not connect.clean_session
    assert b"sr=plant-a.example%2Fdevices%2Fd1&" in (connect.password or b"")
    assert b"skn=" not in (connect.password or b"")


async def test_telemetry(peer: Peer, start: Start) -> None:
    fleet = await start(count=2, rate=50.0, size=64)
    await until(lambda: min(len(peer.messages["d1"]), len(peer.messages["d2"])) >= 10)
    summary = await fleet.end()
    for name in ("d1", "d2"):
        sent = peer.messages[name]
        assert {len(message.payload) for message in sent} == {64}
        assert sent[0].topic == f"devices/{name}/messages/events/{JSON}"
        numbers = [json.loads(message.payload)["number"] for message in sent]
        assert numbers == list(range(1, len(sent) + 1))
    assert summary.messages >= 20
    assert summary.ack_ms.p50 is not None
    assert summary.held_back == 0


JSON = "$.ct=application%2Fjson&$.ce=utf-8"


async def test_a_slow_hub_is_not_flooded(peer: Peer, start: Start) -> None:
    fleet = await start(count=1)
    await until(lambda: fleet.tally.twin_reports == 1)
    peer.acknowledging = False
    fleet = await start(count=1, prefix="e", rate=1_000.0)
    await until(lambda: fleet.tally.held_back > 50)
    # The registration and the twin were not acknowledged either.
    assert len(peer.messages["e1"]) <= IN_FLIGHT


async def test_methods_are_echoed(peer: Peer, start: Start) -> None:
    fleet = await start(count=1)
    await until(lambda: "d1" in peer.lines)
    peer.lines["d1"].say(Publish("$iothub/methods/POST/restart/?$rid=1f", b'{"in": 5}'))
    peer.lines["d1"].say(Publish("$iothub/methods/POST/stop/?$rid=20", b""))
    await until(lambda: len(peer.replies["d1"]) == 2)
    assert [(each.topic, each.payload) for each in peer.replies["d1"]] == [
        ("$iothub/methods/res/200/?$rid=1f", b'{"in": 5}'),
        ("$iothub/methods/res/200/?$rid=20", b"null"),
    ]
    assert (await fleet.end()).methods == 2


async def test_cloud_to_device_messages_are_completed(peer: Peer, start: Start) -> None:
    fleet = await start(count=1)
    await until(lambda: "d1" in peer.lines)
    peer.lines["d1"].say(Publish("devices/d1/messages/devicebound/$.mid=1", b"hello", 1, 9))
    await until(lambda: fleet.tally.cloud_to_device == 1)


async def test_desired_properties_are_applied(peer: Peer, start: Start) -> None:
    fleet = await start(count=1)
    await until(lambda: fleet.tally.twin_reports == 1)
    peer.lines["d1"].say(
        Publish("$iothub/twin/PATCH/properties/desired/?$version=4", b'{"x": 1, "$version": 4}')
    )
    await until(lambda: fleet.tally.twin_reports == 2)
    assert peer.reports["d1"] == [
        {"simulation": {"appliedVersion": 1}},
        {"simulation": {"appliedVersion": 4}},
    ]
    assert (await fleet.end()).desired_versions == {"4": 1}


async def test_reports(peer: Peer, start: Start) -> None:
    fleet = await start(count=1, report_every_s=0.05)
    await until(lambda: fleet.tally.twin_reports >= 4)
    assert peer.reports["d1"][1:3] == [{"simulation": {"sent": 0}}] * 2


async def test_the_edge_agent_reports_deployments(peer: Peer, start: Start) -> None:
    peer.desired = {"schemaVersion": "1.1", "modules": {}, "$version": 3}
    policies = {HUB: HubPolicy(name="iothubowner", key=b"p" * 32)}
    await start(count=1, edge=True, policies=policies)
    await until(lambda: bool(peer.reports["d1/$edgeAgent"]))
    password = peer.connects["d1/$edgeAgent"][0].password or b""
    assert b"devices%2Fd1%2Fmodules%2F%24edgeAgent&" in password
    assert password.endswith(b"&skn=iothubowner")
    assert peer.reports["d1/$edgeAgent"] == [
        {
            "schemaVersion": "1.0",
            "lastDesiredVersion": 3,
            "lastDesiredStatus": {"code": 200, "description": ""},
        }
    ]


async def test_edge_needs_the_policy_of_the_hub(start: Start) -> None:
    with pytest.raises(SimulationError, match="no access policy of the hub plant-a"):
        await (await start(edge=True)).over()


async def test_lost_connections_come_back(peer: Peer, start: Start) -> None:
    fleet = await start()
    await until(lambda: fleet.tally.twin_reports == 3)
    for line in list(peer.lines.values()):
        line.drop()
    await until(lambda: fleet.tally.reconnects == 3)
    summary = await fleet.end()
    assert summary.errors == {"connection lost": 3}
    assert summary.registrations == 3
    assert {name: len(found) for name, found in peer.connects.items()} == {
        "d1": 2,
        "d2": 2,
        "d3": 2,
    }


async def test_a_ping_that_is_not_answered_ends_the_connection(peer: Peer, start: Start) -> None:
    fleet = await start(count=1, keep_alive_s=1)
    await until(lambda: fleet.tally.twin_reports == 1)
    peer.ponging = False
    await until(lambda: fleet.tally.reconnects == 1)
    assert fleet.tally.errors == {"no answer to a ping": 1}


async def test_tokens_are_renewed(peer: Peer, start: Start) -> None:
    fleet = await start(count=1, token_lifetime_s=1.0)
    await until(lambda: len(peer.connects["d1"]) == 2)
    await until(lambda: "d1" in peer.lines)
    summary = await fleet.end()
    assert summary.renewals >= 1
    assert (summary.reconnects, summary.errors) == (0, {})
    assert peer.goodbyes[0] == "d1"


async def test_a_hub_that_refuses_later_makes_a_device_register_again(
    peer: Peer, start: Start
) -> None:
    fleet = await start(count=1)
    await until(lambda: fleet.tally.states["connected"] == 1)
    peer.connack = 5
    peer.lines["d1"].drop()
    await until(lambda: fleet.tally.errors["CONNACK 5"] >= 1)
    peer.connack = 0
    await until(lambda: fleet.tally.reconnects == 1)
    assert peer.registered.count("d1") >= 2
    assert (await fleet.end()).provisioned == 1


async def test_a_first_device_that_is_refused_ends_it_all(peer: Peer, start: Start) -> None:
    refusal = {"errorCode": 401002, "trackingId": "t-1", "message": "Unauthorized"}
    peer.refusals = [(401, refusal)]
    fleet = await start(count=1_000)
    with pytest.raises(SimulationError, match=r"Unauthorized \(error 401002, tracking ID t-1\)"):
        await fleet.over()
    assert peer.registered == []
    assert fleet.tally.states["idle"] == 0


async def test_a_throttled_registration_is_tried_again(peer: Peer, start: Start) -> None:
    peer.refusals = [(429, {"errorCode": 429001, "message": "Throttled"})]
    fleet = await start(count=1)
    await until(lambda: "d1" in peer.lines)
    assert fleet.tally.errors == {"registration 429": 1}


async def test_devices_that_are_refused_are_counted(peer: Peer, start: Start) -> None:
    peer.barred = "d2"
    fleet = await start(count=3)
    await until(lambda: fleet.tally.states["failed"] == 1 and fleet.tally.states["connected"] == 2)
    summary = await fleet.end()
    assert summary.errors == {"registration 404": 1}
    assert (summary.failed, summary.connected) == (1, 2)


async def test_nobody_there(certificate: Certificate) -> None:
    place = Place(name="localhost", address=HOST, port=1)
    plan = Plan(count=2, prefix="d", dps=place, id_scope=SCOPE, group_key=GROUP_KEY)
    dialler = Dialler(client_context(certificate.certificate))
    with pytest.raises(SimulationError) as caught:
        await Running(Simulation(plan, dialler, SystemClock(), Randomness())).over()
    assert caught.value.failure.unreachable
    assert caught.value.failure.kind == "connect: connection refused"


async def test_twin_errors_are_counted(peer: Peer, start: Start) -> None:
    peer.twin_status = 429
    fleet = await start(count=1)
    await until(lambda: fleet.tally.errors["twin read 429"] >= 1)
    assert peer.reports["d1"] == []


async def test_it_ends_when_the_time_is_over(peer: Peer, start: Start) -> None:
    fleet = await start(count=1)
    await until(lambda: "d1" in peer.lines)
    await fleet.end()
    plan = msgspec.structs.replace(fleet.simulation.plan, prefix="e")
    again = Simulation(plan, fleet.simulation.dialler, SystemClock(), Randomness())
    summary = await again.run(asyncio.Event(), lambda _: None, duration_s=0.5)
    assert summary.elapsed_s >= 0.5
    assert peer.lines == {}
