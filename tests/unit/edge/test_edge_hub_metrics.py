"""What the edge hub counts (edge.md 5.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.clock import ManualClock
from muster.edge.hub import routes
from muster.edge.hub.absence import Absence
from muster.edge.hub.authentication import Authenticator, Proof
from muster.edge.hub.broker import UPSTREAM, Bag, Broker, inputs
from muster.edge.hub.clients import Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.heads import MqttSessions, Services
from muster.edge.hub.members import local
from muster.edge.hub.methods import Methods
from muster.edge.hub.metrics import HubMetrics
from muster.edge.hub.queues import Queues
from muster.edge.hub.scope import Scope
from muster.edge.hub.twins import Twins
from muster.edge.upstream.errors import UnreachableError
from muster.errors import MusterError
from muster.ids import Randomness
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

M = local("edge", "m")


class NoHub:
    """A hub that is out of reach."""

    async def page(self, *_arguments: Any) -> Any:
        raise UnreachableError("no link")

    async def one(self, *_arguments: Any) -> Any:
        raise UnreachableError("no link")


class Link:
    """A client that answers each method."""

    expires_at = 1 << 40
    over = ()

    def __init__(self, services: Services) -> None:
        self.ref = M
        self._services = services

    def close(self, reason: str) -> None:
        self._services.clients.detach(self)

    def takes_desired(self) -> bool:
        return False

    def desired_changed(self, body: bytes, version: int) -> None:
        raise AssertionError

    def takes_methods(self) -> bool:
        return True

    def takes_method(self, name: str) -> bool:
        return True

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._services.methods.answered, M, request_id, 200, b"1")

    def takes_messages(self) -> bool:
        return False

    async def deliver(self, bag: str, body: bytes) -> bool:
        raise AssertionError


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    clock, randomness = ManualClock(), Randomness()
    engine = await SqliteEngine.open(tmp_path / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, clock, max_bytes=10_000, ttl_s=60)
    clients, broker = Clients(clock), Broker(queues, "edge", clock, randomness)
    scope = Scope("edge", engine, NoHub(), clock, [].append)
    yield Services(
        device_id="edge",
        hosts=("gateway",),
        authenticator=Authenticator(scope, "edge", ("gateway",), clock),
        clients=clients,
        broker=broker,
        queues=queues,
        twins=Twins(engine, clients, broker),
        methods=Methods(clients, randomness),
        sessions=MqttSessions(engine),
        clock=clock,
        randomness=randomness,
    )
    await queues.flush()
    await engine.close()


def read(services: Services, absence: Absence | None = None) -> dict[str, float]:
    """Return what is exposed, by name and the labels that are not common to all."""
    absence = absence or Absence(services.clock)
    text = HubMetrics(services, absence, "hub.example", "1").exposition().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            common = [labels.pop(name) for name in ("iothub", "edge_device", "instance_number")]
            assert common == ["hub.example", "edge", "1"]
            found[" ".join([sample.name, *labels.values()])] = sample.value
    return found


async def test_messages(services: Services) -> None:
    services.broker.routes = (
        routes.parse("up", "FROM /messages/* WHERE up = '1' INTO $upstream", priority=3),
        routes.parse(
            "in", "FROM /messages/* WHERE inside = '1' INTO BrokeredEndpoint('/modules/m/inputs/i')"
        ),
    )
    for text in ("up=1", "up=1", "up=1&inside=1", "nowhere=1"):
        await services.broker.accept(M, [(Bag(M, text), b"x")])
    found = read(services)
    assert found["edgehub_messages_received_total edge/m"] == 4
    assert found["edgehub_message_size_bytes_sum edge/m"] == 4
    assert found["edgehub_message_size_bytes edge/m 0.99"] == 1
    assert found["edgehub_messages_dropped_total no_route"] == 1
    assert found["edgehub_queue_length iothub 3"] == 3
    assert found[f"edgehub_queue_length modules/m {routes.LOWEST_PRIORITY}"] == 1
    outlet = services.queues.outlet(UPSTREAM, M.text)
    services.clock.advance(2)
    first, second, _ = await outlet.take()
    services.clock.advance(3)
    outlet.done([first])
    outlet.done([first])
    outlet.refused(second)
    found = read(services)
    assert found["edgehub_queue_length iothub 3"] == 1
    assert found["edgehub_messages_sent_total edge/m iothub"] == 1
    assert found["edgehub_messages_dropped_total refused"] == 1
    assert found["edgehub_message_send_duration_seconds_sum edge/m iothub"] == 3
    assert found["edgehub_message_process_duration_seconds_sum edge/m 3 iothub"] == 5
    assert found["edgehub_message_process_duration_seconds_count edge/m 3 iothub"] == 1
    await outlet.rewind()
    assert read(services)["edgehub_operation_retry_total edge/m send_message"] == 1
    inside = services.queues.outlet(inputs("m"))
    inside.done(await inside.take())
    assert read(services)["edgehub_messages_sent_total  modules/m"] == 1


async def test_what_the_store_does_not_hold(services: Services) -> None:
    services.broker.routes = (routes.parse("up", "FROM /* INTO $upstream"),)
    for _ in range(3):
        await services.broker.accept(M, [(Bag(M, ""), b"x" * 4_000)])
    assert read(services)["edgehub_messages_dropped_total queue_full"] > 0
    services.clock.advance(61)
    assert await services.queues.outlet(UPSTREAM, M.text).take() == []
    assert read(services)["edgehub_messages_dropped_total ttl_expiry"] > 0


async def test_clients(services: Services) -> None:
    older, newer = Link(services), Link(services)
    services.clients.attach(older)
    services.clients.attach(newer)
    await services.methods.invoke(M, "turn", b"1", response_timeout_s=30, connect_timeout_s=0)
    await services.twins.get(M)
    await services.twins.report(M, {"a": 1}, None)
    with pytest.raises(MusterError):
        await services.authenticator.login(M, Proof("SharedAccessSignature sr=gateway&sig=a&se=1"))
    found = read(services)
    assert found["edgehub_connected_clients"] == 1
    assert found["edgehub_client_connect_success_total edge/m"] == 2
    assert found["edgehub_client_disconnect_total edge/m"] == 1
    assert found["edgehub_direct_methods_total edge/m"] == 1
    assert found["edgehub_gettwin_total edge/m"] == 1
    assert found["edgehub_reported_properties_total edge/m"] == 1
    assert found["edgehub_direct_method_duration_seconds_count edge/m"] == 1
    assert found["edgehub_gettwin_duration_seconds_count edge/m edgehub"] == 1
    assert sum(v for name, v in found.items() if "client_connect_failed_total" in name) == 1
    services.clients.detach(newer)
    assert read(services)["edgehub_connected_clients"] == 0


async def test_the_link(services: Services) -> None:
    absence = Absence(services.clock)
    itself = "edge/$edgeHub"
    # What comes before the first connection is a start, and words may come twice.
    for up, seconds in ((False, 9), (True, 9), (True, 9), (False, 20), (False, 10), (True, 5)):
        absence.changed(up=up)
        services.clock.advance(seconds)
    found = read(services, absence)
    assert found[f"edgehub_offline_count_total {itself}"] == 1
    assert found[f"edgehub_offline_duration_seconds_sum {itself}"] == 30
    absence.changed(up=False)
    found = read(services, absence)
    assert found[f"edgehub_offline_count_total {itself}"] == 2
    assert found[f"edgehub_offline_duration_seconds_count {itself}"] == 1


async def test_what_goes_on_to_the_cloud_takes_time(services: Services) -> None:
    class Session:
        async def twin(self) -> dict[str, Any]:
            return {"desired": {"$version": 1}, "reported": {"$version": 1}}

        async def report(self, patch: dict[str, Any]) -> None:
            """Nothing to do."""

    class Cloud:
        def session(self, _ref: Any) -> Any:
            return Session()

        async def first_try(self, _ref: Any) -> None:
            """Nothing to wait for."""

    services.twins.cloud = Cloud()
    await services.twins.report(M, {"a": 1}, None)
    await services.twins.get(M)
    found = read(services)
    assert found["edgehub_gettwin_duration_seconds_count edge/m upstream"] == 1
    name = "edgehub_reported_properties_update_duration_seconds_count"
    assert found[f"{name} edge/m upstream"] == 1
