"""A session with the hub over MQTT: connections one after the other, as one thing that lasts.

It implements `base.Session`. What it holds is bounded: telemetry in flight by `Tuning`, telemetry
that waits for room by its callers, who wait with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec
import structlog

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.upstream import topics
from muster.edge.upstream.base import Feature, HubError, JsonObject, Link, Message, NoLinkError
from muster.edge.upstream.connection import Connection
from muster.edge.upstream.login import Transport
from muster.edge.upstream.outbox import Outbox
from muster.edge.upstream.tuning import Tuning
from muster.net.conversation import Failure
from muster.net.dial import reason
from muster.net.dial_websocket import WebSocketLine
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from muster.edge.upstream.arrival import Arrival
    from muster.edge.upstream.base import Owner
    from muster.edge.upstream.hub_time import HubTime
    from muster.edge.upstream.login import Gateway, Login
    from muster.edge.upstream.turn import Turn
    from muster.ids import Randomness
    from muster.net.conversation import Conversation
    from muster.net.tunnel import Proxy

MAX_MESSAGE: Final = 262_144
"""Bytes of a message, its properties included (hub-device.md 2.2)."""
ALL: Final = frozenset(Feature)
_LARGEST: Final = 2**63 - 1

_WEBSOCKET_PATH: Final = "/$iothub/websocket"
_SUBPROTOCOL: Final = "mqtt"
_TURN_S: Final = 1.0
_LOOK_S: Final = 10.0
"""How often a session looks whether the clock was set."""
_log = structlog.get_logger(__name__)


class Dial(Protocol):
    """Opens connections: `net.dial.Dialler`."""

    async def open(
        self,
        host: str,
        port: int,
        protocol: asyncio.Protocol,
        server_name: str | None = None,
        proxy: Proxy | None = None,
    ) -> asyncio.Transport:
        """See there."""


@final
class MqttSession:
    """One identity's session.

    Args:
        login: who it is.
        gateway: where to connect.
        owner: told what happens.
        dialler: opens connections and knows whom to trust.
        time: of the hub.
        randomness: spreads attempts.
        ways: how to connect, the preferred way first; the next one is tried where one is blocked.
        features: what the identity takes.
        tuning: see there.
        reached: called each time that the hub has accepted.
        company: tells how many sessions of the device look for the hub. Each makes its pauses so
            many times longer, so that together they try as often as one would, and one that gets
            through has the others follow.
        arrival: before which it does not try; `None` where nothing is to be waited for.
        turn: held while a connection is opened, so that a device whose hub does not answer has one
            on its way and not one of each session; `None` where there is no other session.
    """

    def __init__(
        self,
        login: Login,
        gateway: Gateway,
        owner: Owner,
        *,
        dialler: Dial,
        time: HubTime,
        randomness: Randomness,
        ways: Sequence[Transport] = (Transport.MQTT, Transport.WEBSOCKET),
        features: frozenset[Feature] = ALL,
        tuning: Tuning | None = None,
        reached: Callable[[MqttSession], None] | None = None,
        company: Callable[[], int] | None = None,
        arrival: Arrival | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._login = login
        self._gateway = gateway
        self._owner = owner
        self._dialler = dialler
        self._time = time
        self._randomness = randomness
        self._ways = list(ways)
        self._features = features
        self._tuning = tuning or Tuning()
        self._reached = reached
        self._company = company
        self._arrival = arrival
        self._turn = turn
        self._found_before = False
        self._link = Link.UNREACHABLE
        self._told: tuple[Link, str] | None = None
        self._connection: Connection | None = None
        self._accepted: asyncio.Future[Failure | None] | None = None
        self._over: asyncio.Future[Failure | None] | None = None
        self._renewing = False
        self._renewed = asyncio.Event()
        self._outbox = Outbox(self._tuning)
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._left_over: set[asyncio.Task[None]] = set()

    # What its user does (`base.Session`).

    @property
    def link(self) -> Link:
        """How it stands."""
        return self._link

    @property
    def looks(self) -> bool:
        """Whether it looks for the hub."""
        return self._task is not None and self._link is Link.UNREACHABLE

    def open(self) -> None:
        """Begin; at once and without waiting for the hub."""
        if self._task is None:
            self._task = spawn(self._run(), f"hub session of {self._login.client_id}")

    async def close(self) -> None:
        """End in good order: what is in flight has a moment, what waits is given up."""
        task, self._task = self._task, None
        if task is None:
            return
        self._outbox.give_up()
        connection = self._connection
        if connection is not None and self._link is Link.CONNECTED:
            await self._drain(connection)
        task.cancel()
        await asyncio.wait([task])
        for each in self._left_over:
            each.cancel()
        if self._left_over:
            await asyncio.wait(self._left_over)

    def want(self, features: frozenset[Feature]) -> None:
        """Take these and no others; see `base.Session`."""
        self._features = features
        if self._connection is not None:
            self._connection.want(features)

    def hurry(self) -> None:
        """Try again now, where it waits before the next attempt: something has changed."""
        self._hurry.set()

    async def twin(self) -> JsonObject:
        """Return the twin; see `base.Session`."""
        content = await self._ask(topics.TWIN_GET, b" ")
        try:
            found = foreign_json.decode(content, dict[str, dict[str, Any]])
            twin = {name: found[name] for name in ("desired", "reported")}
        except (ForeignJsonError, KeyError):
            raise HubError("the hub answers with something that is no twin", 502) from None
        for section in twin.values():
            version = section.setdefault("$version", 1)
            if type(version) is not int or not 0 <= version <= _LARGEST:
                raise HubError("the hub answers with a twin whose version is none", 502)
        return twin

    async def report(self, patch: JsonObject) -> None:
        """Patch reported properties; see `base.Session`."""
        await self._ask(topics.REPORTED, msgspec.json.encode(patch))

    async def send(self, message: Message) -> None:
        """Send telemetry; see `base.Session`."""
        topic = topics.telemetry(self._login, message.bag)
        size = len(message.body) + len(message.bag)
        if size > MAX_MESSAGE:
            raise HubError(f"a message of {size} bytes is over the limit of {MAX_MESSAGE}", 413)
        if self._link is not Link.CONNECTED or self._task is None:
            raise NoLinkError("there is no connection to the hub")
        done = self._outbox.add(topic, message.body, size)
        self._pump()
        await done

    # What connections tell (`ConnectionOwner`).

    def began(self, connection: Connection) -> None:
        """Note that the hub has accepted."""
        if self._accepted is not None and not self._accepted.done():
            self._accepted.set_result(None)
            self._renewal_ends()
            self._link_is(Link.CONNECTED, f"connected to {self._gateway.host}")
            self._pump()
            if self._reached is not None:
                self._reached(self)

    def ended(self, conversation: Conversation[Any], failure: Failure | None) -> None:
        """Note the end of a connection."""
        if conversation is not self._connection:
            return
        for future in (self._accepted, self._over):
            if future is not None and not future.done():
                future.set_result(failure or Failure(kind="left"))

    def room(self) -> None:
        """Send on."""
        self._pump()

    def desired_changed(self, patch: JsonObject) -> None:
        """Hand on."""
        self._say("desired_changed", lambda: self._owner.desired_changed(patch))

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """Hand on."""
        return await self._owner.method(name, payload)

    async def message(self, message: Message) -> None:
        """Hand on."""
        await self._owner.message(message)

    # The life of the session.

    async def _run(self) -> None:
        failures = 0
        try:
            await self._arrive()
            while True:
                began = asyncio.get_running_loop().time()
                failure = await self._connect(failures) or await self._stay()
                if failure is None:
                    continue  # the token is renewed
                if asyncio.get_running_loop().time() - began > self._tuning.stable_s:
                    failures = 0
                failures += 1
                if await self._lost(failure, failures):
                    failures -= 1  # an attempt that others asked for makes no pause longer
        finally:
            self._end()

    async def _arrive(self) -> None:
        """Wait until this device comes to its hub, and say so."""
        if self._arrival is not None and (left_s := self._arrival.left_s) > 0:
            detail = f"this device has just started and comes to its hub in {left_s:.0f} s"
            self._link_is(Link.UNREACHABLE, detail)
            await self._arrival.wait()

    async def _connect(self, failed: int) -> Failure | None:
        """Connect in the first way that works; `None` where one did.

        Args:
            failed: how many attempts have failed in a row. Where a way has worked before, that one
                is tried alone each other time: mostly it is the hub that is away.
        """
        failures: dict[Transport, Failure] = {}
        alone = self._found_before and failed % 2 == 1
        for way in tuple(self._ways[:1] if alone else self._ways):
            failure = await self._attempt(way)
            if failure is None:
                # It is the first choice from now on.
                self._ways.sort(key=lambda each: each is not way)
                self._found_before = True
                return None
            failures[way] = failure
            if not failure.unreachable:
                return failure
        detail = "; ".join(
            f"{way.value}: {each.detail or each.kind}" for way, each in failures.items()
        )
        return Failure(kind="unreachable", detail=detail, unreachable=True)

    async def _attempt(self, way: Transport) -> Failure | None:
        tuning, gateway = self._tuning, self._gateway
        loop = asyncio.get_running_loop()
        expiry = int(self._time.now() + tuning.token_s)
        connect = self._login.connect(expiry, tuning.keep_alive_s)
        connection = Connection(self, self._login, connect, self._features)
        accepted: asyncio.Future[Failure | None] = loop.create_future()
        self._connection, self._accepted, self._over = connection, accepted, loop.create_future()
        protocol: asyncio.Protocol = connection
        port, proxy = gateway.mqtt_port, None
        if way is Transport.WEBSOCKET:
            port, proxy = gateway.https_port, gateway.proxy
            protocol = WebSocketLine(connection, gateway.host, port, _WEBSOCKET_PATH, _SUBPROTOCOL)
        stream: asyncio.Transport | None = None
        try:
            async with self._in_turn(), asyncio.timeout(tuning.dial_s):
                stream = await self._dialler.open(
                    gateway.address or gateway.host, port, protocol, gateway.host, proxy
                )
            async with asyncio.timeout(tuning.answer_s):
                failure = await accepted
        except OSError as error:  # `TimeoutError` is one
            failure = Failure(kind=reason(error), unreachable=True)
        else:
            if failure is None:
                return None
            if not failure.kind.startswith("CONNACK"):
                # Lost, or not understood, before the hub has accepted: another way may do.
                failure = msgspec.structs.replace(failure, unreachable=True)
        finally:
            if not accepted.done() or accepted.cancelled() or accepted.result() is not None:
                self._connection = None
                connection.end(None)
                if stream is not None:
                    stream.abort()
        return _explained(failure, f"{gateway.host}:{port}", self._time)

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Hold the turn; who waits long for it is told that there is no link meanwhile."""
        if self._turn is None:
            yield
            return
        loop = asyncio.get_running_loop()
        detail = "another session of this device looks for the hub"
        telling = loop.call_later(_TURN_S, self._link_is, Link.UNREACHABLE, detail)
        try:
            await self._turn.begin()
        finally:
            telling.cancel()
        try:
            yield
        finally:
            self._turn.end()

    async def _stay(self) -> Failure | None:
        """Be connected until that ends; `None` where it ends to renew the token."""
        connection, over, tuning = self._connection, self._over, self._tuning
        if connection is None or over is None:
            raise AssertionError("there is a connection after `_connect`")
        loop = asyncio.get_running_loop()
        mark, renew_at = self._time.mark(), loop.time() + tuning.token_s - tuning.renew_s
        ping_s = tuning.keep_alive_s * 0.75
        ping_at = loop.time() + ping_s
        look_s = min(_LOOK_S, tuning.progress_s / 4, tuning.answer_s / 4)
        while True:
            now = loop.time()
            wake_at = min(now + look_s, ping_at, renew_at)
            await asyncio.wait([over], timeout=max(wake_at - now, 0.0))
            if over.done():
                return over.result()
            now = loop.time()
            if self._time.stepped(mark):
                _log.info("the clock was set: the token is made anew", identity=self._name)
                break
            if now >= renew_at:
                break
            if now >= ping_at:
                ping_at = now + ping_s
                connection.ping()
            connection.watch(tuning.answer_s, tuning.progress_s)
        self._renewing = True
        self._renewed.clear()
        await self._drain(connection)
        if over.done():
            return over.result()
        self._let_go(connection)
        return None

    async def _lost(self, failure: Failure, failures: int) -> bool:
        """Tell, and wait before the next attempt; return whether it comes before its time."""
        if self._connection is not None:
            self._let_go(self._connection)
        refused = failure.final and not failure.unreachable
        link = Link.REFUSED if refused else Link.UNREACHABLE
        self._link_is(link, failure.detail or failure.kind)
        self._renewal_ends()
        self._outbox.give_up()
        tuning = self._tuning
        pauses = tuning.refused if refused else tuning.unreachable
        chance = int.from_bytes(self._randomness.token_bytes(4)) / 2**32
        together = 1 if refused or self._company is None else self._company()
        pause_s = pauses.pause_s(failures, chance, failure.wait_s, together)
        _log.info(
            "no connection to the hub",
            identity=self._name,
            reason=failure.detail or failure.kind,
            next_attempt_s=round(pause_s, 1),
        )
        loop = asyncio.get_running_loop()
        end, mark = loop.time() + pause_s, self._time.mark()
        self._hurry.clear()
        while (left := end - loop.time()) > 0 and not self._time.stepped(mark):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(left, _LOOK_S))
                return True
        return False

    async def _drain(self, connection: Connection) -> None:
        """Let what is in flight arrive."""
        over = self._over
        end = asyncio.get_running_loop().time() + self._tuning.drain_s
        while over is not None and not (over.done() or connection.idle):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.wait([over], timeout=min(left, 0.05))

    def _let_go(self, connection: Connection) -> None:
        """Leave a connection; what its owner still works on is finished all the same."""
        self._connection = None
        for task in connection.methods:
            self._left_over.add(task)
            task.add_done_callback(self._left_over.discard)
        connection.leave()

    def _renewal_ends(self) -> None:
        self._renewing = False
        self._renewed.set()

    def _end(self) -> None:
        self._link = Link.UNREACHABLE
        if self._connection is not None:
            self._let_go(self._connection)
        self._renewal_ends()
        self._outbox.give_up()

    def _pump(self) -> None:
        """Send what there is room for."""
        if self._connection is not None and self._link is Link.CONNECTED and not self._renewing:
            self._outbox.pump(self._connection)

    async def _ask(self, topic: str, body: bytes) -> bytes:
        if self._renewing:
            await self._renewed.wait()
        connection = self._connection
        if connection is None or self._link is not Link.CONNECTED or self._task is None:
            raise NoLinkError("there is no connection to the hub")
        try:
            async with asyncio.timeout(self._tuning.answer_s):
                return await connection.ask(topic, body)
        except TimeoutError:
            raise NoLinkError("the hub has not answered in time") from None

    def _link_is(self, link: Link, detail: str) -> None:
        self._link = link
        if self._told != (link, detail):
            self._told = link, detail
            self._say("link_changed", lambda: self._owner.link_changed(link, detail))

    def _say(self, what: str, call: Callable[[], None]) -> None:
        """Tell the owner; a mistake of its own does not cost the session."""
        try:
            call()
        except Exception:  # noqa: BLE001 - logged, and the session goes on
            _log.exception("a session's owner failed", identity=self._name, what=what)

    @property
    def _name(self) -> str:
        return self._login.client_id


def _explained(failure: Failure, where: str, time: HubTime) -> Failure:
    """Say where it was, and what may be the matter."""
    detail = f"{where}: {failure.detail or failure.kind}"
    if failure.untrusted:
        detail += f" ({time.remark()})"
    return msgspec.structs.replace(failure, detail=detail)
