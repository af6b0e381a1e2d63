"""Twins, methods and messages of the edge hub's clients, with a cloud that comes and goes.

The cloud is a stand-in here, so that each moment can be chosen; the real one is in tests/wire and
tests/conformance.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from muster.clock import ManualClock
from muster.edge.hub import twins as twins_module
from muster.edge.hub.broker import UPSTREAM, Broker, inputs
from muster.edge.hub.clients import Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.desired import parse
from muster.edge.hub.line import Line
from muster.edge.hub.members import local
from muster.edge.hub.methods import Methods
from muster.edge.hub.queue import Entry, Key
from muster.edge.hub.queues import Queues
from muster.edge.hub.twins import Twins
from muster.edge.hub.upstreams import DrainPace
from muster.edge.upstream.base import Feature, HubError, Link, Message, NoLinkError
from muster.edge.upstream.login import Login
from muster.errors import (
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
)
from muster.ids import Randomness
from muster.model.merge_patches import merge
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REF = local("edge", "m")


class Cloud:
    """A session with the hub, and the hub behind it."""

    def __init__(self) -> None:
        self.link = Link.UNREACHABLE
        self.desired: dict[str, Any] = {}
        self.desired_version = 1
        self.reported: dict[str, Any] = {}
        self.reported_version = 1
        self.refuses: int | None = None
        self.sent: list[str] = []
        self.fails_after: int | None = None
        self.owner: Any = None
        self.wanted: list[frozenset[Feature]] = []

    def want(self, features: frozenset[Feature]) -> None:
        self.wanted.append(features)

    def open(self) -> None:
        self.opened_with = self.wanted[-1]

    async def close(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def session(self, ref: Any) -> Cloud | None:
        return self if self.link is Link.CONNECTED else None

    async def first_try(self, ref: Any) -> None:
        pass

    async def twin(self) -> dict[str, Any]:
        self.check()
        return {
            "desired": {**self.desired, "$version": self.desired_version},
            "reported": {**self.reported, "$version": self.reported_version},
        }

    async def report(self, patch: dict[str, Any]) -> None:
        self.check()
        if self.refuses is not None:
            raise HubError("refused", self.refuses)
        self.reported = merge(self.reported, patch)
        self.reported_version += 1

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.check()
        if message.body == b"unsendable":
            raise HubError("no", 413)
        if self.fails_after is not None:
            if not self.fails_after:
                self.down()
                self.check()
            self.fails_after -= 1
        self.sent.append(message.body.decode())

    def desire(self, patch: dict[str, Any]) -> dict[str, Any]:
        self.desired = merge(self.desired, patch)
        self.desired_version += 1
        return {**patch, "$version": self.desired_version}

    def check(self) -> None:
        if self.link is not Link.CONNECTED:
            raise NoLinkError("cut")

    def up(self) -> None:
        self.link = Link.CONNECTED
        if self.owner is not None:
            self.owner.link_changed(self.link, "")

    def down(self) -> None:
        self.link = Link.UNREACHABLE
        if self.owner is not None:
            self.owner.link_changed(self.link, "cut")


class Client:
    """A connection of a client, of which everything is noted."""

    def __init__(
        self, *, desired: bool = True, methods: bool = True, messages: bool = True
    ) -> None:
        self.ref = REF
        self.expires_at = 1 << 40
        self.over = ()
        self.closed: list[str] = []
        self.patches: list[dict[str, Any]] = []
        self.calls: list[tuple[int, str, bytes]] = []
        self.messages: list[bytes] = []
        self.wants_desired = desired
        self.wants_methods = methods
        self.wants_messages = messages

    def close(self, reason: str) -> None:
        self.closed.append(reason)

    def takes_desired(self) -> bool:
        return self.wants_desired

    def desired_changed(self, body: bytes, version: int) -> None:
        self.patches.append(json.loads(body))

    def takes_methods(self) -> bool:
        return self.wants_methods

    def takes_method(self, name: str) -> bool:
        return self.wants_methods

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        self.calls.append((request_id, name, payload))

    def takes_messages(self) -> bool:
        return self.wants_messages

    async def deliver(self, bag: str, body: bytes) -> bool:
        self.messages.append(body)
        return True


class Parts:
    def __init__(self, engine: SqliteEngine, queues: Queues) -> None:
        self.clock = ManualClock()
        self.queues = queues
        self.clients = Clients(self.clock)
        self.methods = Methods(self.clients, Randomness())
        self.broker = Broker(queues, "edge", self.clock, Randomness())
        self.twins = Twins(engine, self.clients, self.broker)
        self.cloud = Cloud()
        self.twins.cloud = self.cloud

    async def view(self) -> dict[str, Any]:
        return dict(json.loads(await self.twins.get(REF)))

    async def settle(self) -> None:
        """Let everything finish that was begun."""
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > self.resting:  # noqa: ASYNC110 - so all is seen
                await asyncio.sleep(0.01)

    resting = 1


@contextlib.asynccontextmanager
async def parts(directory: Path) -> AsyncIterator[Parts]:
    engine = await SqliteEngine.open(directory / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, ManualClock(), max_bytes=1 << 30, ttl_s=7200)
    made = Parts(engine, queues)
    await made.twins.load([REF])
    yield made
    for handle in made.twins._timers.values():
        handle.cancel()
    await queues.flush()
    await made.settle()
    await engine.close()


async def test_a_client_reads_the_cloud_and_its_copy_without_it(tmp_path):
    async with parts(tmp_path) as made:
        made.cloud.up()
        made.cloud.desire({"a": 1})
        seen = await made.view()
        assert seen == {
            "desired": {"a": 1, "$version": 2},
            "reported": {"$version": 1},
        }
        made.cloud.down()
        assert await made.view() == seen
    async with parts(tmp_path) as made:
        assert await made.view() == seen


async def test_what_is_reported_offline_survives_and_goes_up_in_order(tmp_path):
    async with parts(tmp_path) as made:
        assert await made.twins.report(REF, {"a": {"b": 1}, "gone": 1}, None) == 1
        assert await made.twins.report(REF, {"gone": None}, None) == 2
        assert await made.twins.report(REF, {"a": None}, None) == 3
        assert await made.twins.report(REF, {"a": {"c": 2}}, None) == 4
        assert (await made.view())["reported"] == {"a": {"c": 2}, "$version": 4}
        assert made.twins.waits(REF)
    async with parts(tmp_path) as made:
        assert made.twins.waiting == [REF]
        made.cloud.reported = {"a": {"old": 1}, "kept": True}
        made.cloud.up()
        made.twins.linked(REF)
        await made.settle()
        assert made.cloud.reported == {"a": {"c": 2}, "kept": True}
        assert not made.twins.waits(REF)
    async with parts(tmp_path) as made:
        assert made.twins.waiting == []


async def test_what_the_cloud_refuses_does_not_hold_up_the_rest(tmp_path):
    async with parts(tmp_path) as made:
        await made.twins.report(REF, {"a": 1}, None)
        made.cloud.up()
        made.cloud.refuses = 400
        made.twins.linked(REF)
        await made.settle()
        assert not made.twins.waits(REF)
        made.cloud.refuses = 429
        await made.twins.report(REF, {"b": 1}, None)
        made.twins.linked(REF)
        await made.settle()
        assert made.twins.waits(REF)
        made.cloud.refuses = None
        made.twins.linked(REF)
        await made.settle()
        assert made.cloud.reported == {"b": 1}


async def test_bad_reports_are_refused_at_once(tmp_path):
    async with parts(tmp_path) as made:
        with pytest.raises(InvalidArgumentError):
            await made.twins.report(REF, {"a.b": 1}, None)
        with pytest.raises(InvalidArgumentError):
            await made.twins.report(REF, {"a": "x" * 5000}, None)
        await made.twins.report(REF, {"a": 1}, None)
        with pytest.raises(PreconditionFailedError):
            await made.twins.report(REF, {"a": 2}, 9)
        assert await made.twins.report(REF, {"a": 2}, 1) == 2


async def test_patches_are_passed_on_and_a_gap_is_filled(tmp_path):
    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        made.cloud.up()
        made.cloud.desire({"a": 1})
        await made.view()
        made.twins.desired_changed(REF, made.cloud.desire({"b": 2}))
        await made.settle()
        assert client.patches == [{"b": 2, "$version": 3}]
        # This one never arrives.
        made.cloud.desire({"c": 3})
        made.twins.desired_changed(REF, made.cloud.desire({"b": None}))
        await made.settle()
        assert client.patches[1:] == [{"c": 3, "b": None, "$version": 5}]
        # Told twice.
        made.twins.desired_changed(REF, {"b": None, "$version": 5})
        await made.settle()
        assert len(client.patches) == 2


async def test_what_a_client_missed_comes_as_a_difference_also_after_a_restart(tmp_path):
    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        made.cloud.up()
        made.cloud.desire({"a": 1, "b": 1})
        await made.view()
        made.clients.detach(client)
        made.twins.desired_changed(REF, made.cloud.desire({"a": 2}))
        made.twins.desired_changed(REF, made.cloud.desire({"b": None}))
        made.twins.desired_changed(REF, made.cloud.desire({"a": 1}))
        await made.settle()
    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        await made.settle()
        assert client.patches == [{"b": None, "$version": 5}]
        again = Client()
        made.clients.attach(again)
        await made.settle()
        assert again.patches == []


async def test_a_client_that_was_told_an_empty_twin_gets_the_real_one_later(tmp_path):
    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        assert (await made.view())["desired"] == {"$version": 0}
        made.cloud.desire({"a": 1})
        made.cloud.up()
        made.twins.linked(REF)
        await made.settle()
        assert client.patches == [{"a": 1, "$version": 2}]


async def test_a_cloud_that_does_not_answer_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(twins_module, "ANSWER_S", 0.01)
    async with parts(tmp_path) as made:
        made.cloud.up()
        made.cloud.desire({"a": 1})
        seen = await made.view()

        async def never() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        made.cloud.twin = never
        assert await made.view() == seen


async def test_changed_reports_are_messages_for_routes_that_want_them(tmp_path):
    async with parts(tmp_path) as made:
        made.broker.routes = parse(
            {
                "schemaVersion": "1.0",
                "routes": {
                    "a": "FROM /twinChangeNotifications "
                    'INTO BrokeredEndpoint("/modules/x/inputs/i")',
                    "b": "FROM /messages/* INTO $upstream",
                },
            }
        ).routes
        await made.twins.report(REF, {"t": 1}, None)
        (message,) = await made.queues.outlet(inputs("x")).take()
        assert json.loads(message.body) == {"properties": {"reported": {"t": 1, "$version": 1}}}
        assert await made.queues.outlet(UPSTREAM, REF.text).take() == []


# Methods.


async def test_a_method_is_answered_by_its_client(tmp_path):
    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        made.cloud.owner = None
        call = asyncio.ensure_future(
            made.methods.invoke(REF, "turn", b"1", response_timeout_s=30, connect_timeout_s=0)
        )
        await until(lambda: client.calls)
        ((request_id, name, payload),) = client.calls
        assert (name, payload) == ("turn", b"1")
        made.methods.answered(REF, request_id + 1, 500, b"")
        made.methods.answered(REF, request_id, 200, b'"ok"')
        assert await call == (200, b'"ok"')


async def test_methods_of_clients_that_are_not_there_wait_as_long_as_asked(tmp_path):
    async with parts(tmp_path) as made:

        async def invoke(connect_s: float, response_s: float = 30) -> Any:
            return await made.methods.invoke(
                REF, "m", b"", response_timeout_s=response_s, connect_timeout_s=connect_s
            )

        with pytest.raises(NotFoundError, match="Client edge/m not found"):
            await invoke(0)
        with pytest.raises(NotFoundError):
            await invoke(0.01)
        waiting = asyncio.ensure_future(invoke(30))
        await until(lambda: made.methods._waits)
        client = Client()
        made.clients.attach(client)
        await until(lambda: client.calls)
        made.methods.answered(REF, client.calls[0][0], 200, b"1")
        assert await waiting == (200, b"1")
        with pytest.raises(UnavailableError):
            await invoke(0, 0.01)
        calls = len(client.calls)
        lost = asyncio.ensure_future(invoke(0))
        await until(lambda: len(client.calls) > calls)
        made.clients.detach(client)
        with pytest.raises(UnavailableError):
            await lost


# The way up.


@contextlib.asynccontextmanager
async def line(made: Parts) -> AsyncIterator[Line]:
    made_line = Line(
        REF,
        Login(hub_host="hub", device_id=REF.device_id, module_id=REF.module_id or None, key=b""),
        queues=made.queues,
        twins=made.twins,
        clients=made.clients,
        methods=made.methods,
        pace=DrainPace(made.clock, 1e6),
        refused=lambda _login, _why: None,
    )
    made.cloud.owner = made_line
    made_line.open(made.cloud)
    made.resting = 2
    yield made_line
    await made_line.close()
    made.resting = 1


async def put(made: Parts, *texts: str) -> None:
    key = Key(UPSTREAM, REF.text, 1)
    await made.queues.put([Entry(key, 0, "", text.encode()) for text in texts])


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the stand-in has no event
            await asyncio.sleep(0.005)


async def test_messages_go_up_in_order_and_again_after_a_loss(tmp_path):
    async with parts(tmp_path) as made, line(made):
        texts = [str(number) for number in range(600)]
        await put(made, *texts)
        made.cloud.fails_after = 250
        made.cloud.up()
        await until(lambda: made.cloud.link is Link.UNREACHABLE)
        assert made.cloud.sent == texts[:250]
        made.cloud.fails_after = None
        made.cloud.up()
        await until(lambda: len(made.cloud.sent) >= 600)
        await put(made, "last")
        await until(lambda: made.cloud.sent[-1] == "last")
        assert list(dict.fromkeys(made.cloud.sent)) == [*texts, "last"]
        assert made.queues.outlet(UPSTREAM, REF.text).count == 0


async def test_a_message_no_hub_would_take_holds_nothing_up(tmp_path):
    async with parts(tmp_path) as made, line(made) as way:
        await put(made, "a", "unsendable", "b")
        made.cloud.up()
        await until(lambda: made.cloud.sent == ["a", "b"])
        assert made.queues.dropped.refused == 1
        await until(lambda: not way.waiting)


async def test_a_cloud_message_waits_for_its_client(tmp_path):
    async with parts(tmp_path) as made, line(made) as way:
        made.clients.watch(Waker(way))
        waiting = asyncio.ensure_future(way.message(Message(body=b"hello")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        client = Client()
        made.clients.attach(client)
        async with asyncio.timeout(30):
            await waiting
        assert client.messages == [b"hello"]


async def test_a_session_wants_what_its_client_takes_and_no_more(tmp_path):
    async with parts(tmp_path) as made:
        client = Client(desired=False, methods=True, messages=False)
        made.clients.attach(client)
        async with line(made) as way:
            made.clients.watch(Waker(way))
            # Asked for with the connection, not after it.
            assert made.cloud.opened_with == {Feature.METHODS}
            client.wants_messages = True
            made.clients.changed(client)
            # Nothing new is asked for twice.
            made.clients.changed(client)
            client.wants_methods = False
            made.clients.changed(client)
            made.clients.detach(client)
            # It is there, and has asked for nothing yet.
            made.clients.attach(Client(desired=False, methods=False, messages=False))
            assert made.cloud.wanted == [
                {Feature.METHODS},
                {Feature.METHODS, Feature.MESSAGES},
                {Feature.MESSAGES},
                set(),
            ]


async def test_one_that_takes_over_is_sent_nothing_until_it_asks(tmp_path):
    async with parts(tmp_path) as made:
        made.clients.attach(Client())
        async with line(made) as way:
            made.clients.watch(Waker(way))
            assert made.cloud.opened_with == set(Feature)
            made.clients.attach(Client(desired=False, methods=False, messages=False))
            assert made.cloud.wanted[1:] == [set()]


async def test_desired_properties_changed_before_they_were_asked_for_come_as_one_difference(
    tmp_path,
):
    async with parts(tmp_path) as made:
        client = Client(desired=False)
        made.clients.attach(client)
        async with line(made) as way:
            made.clients.watch(Waker(way))
            made.cloud.desire({"a": 1, "b": 1})
            made.cloud.up()
            await made.view()
            # Nobody hears of these: the session has not asked for them.
            made.cloud.desire({"a": 2, "c": 1})
            made.cloud.desire({"b": None})
            client.wants_desired = True
            made.clients.changed(client)
            await until(lambda: client.patches)
            await made.settle()
            assert client.patches == [{"a": 2, "b": None, "c": 1, "$version": 4}]
            made.clients.changed(client)
            await made.settle()
            assert len(client.patches) == 1


class Waker:
    def __init__(self, way: Line) -> None:
        self._way = way

    def came(self, ref: Any) -> None:
        self._way.client_changed()

    def left(self, ref: Any) -> None:
        self._way.client_changed()


async def test_a_method_from_the_cloud_reaches_the_client(tmp_path):
    async with parts(tmp_path) as made, line(made) as way:
        client = Client()
        made.clients.attach(client)
        call = asyncio.ensure_future(way.method("m", {"x": 1}))
        await until(lambda: client.calls)
        made.methods.answered(REF, client.calls[0][0], 201, b'{"y": 2}')
        assert await call == (201, {"y": 2})
        call = asyncio.ensure_future(way.method("m", None))
        await until(lambda: len(client.calls) == 2)
        made.methods.answered(REF, client.calls[1][0], 200, b"no json")
        status, _ = await call
        assert status == 502


async def test_a_disk_that_refuses_is_told_and_nothing_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise UnavailableError("The disk is full.")

    async with parts(tmp_path) as made:
        client = Client()
        made.clients.attach(client)
        made.cloud.up()
        await made.view()
        with monkeypatch.context() as patch, capture_logs() as log:
            patch.setattr(made.twins._engine, "write", refuse)
            made.twins.desired_changed(REF, made.cloud.desire({"a": 1}))
            made.twins.linked(REF)
            await made.settle()
        assert {entry["event"] for entry in log} == {"a twin is not kept"}
        # What was missed is found when the disk has room again.
        made.twins.linked(REF)
        await made.settle()
        assert (await made.view())["desired"] == {"a": 1, "$version": 2}
        assert client.patches[-1] == {"a": 1, "$version": 2}
