"""Direct methods on the node that has the client connected: sent, waited for, answered.

A call reaches this node over the bus. It is sent at once when the client has subscribed, else when
it does so within the connect time-out; a node where it never does declines. Calls that are
under way when the connection ends have failed with it and are not sent again (hub-device.md 8).

Belongs to one event loop, as `muster.hub.connections` does.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, final

import msgspec

from muster.model.identity import IdentityRef

if TYPE_CHECKING:
    from muster.bus.base import Bus
    from muster.hub.connection import Connection
    from muster.hub.connections import Connections
    from muster.ids import Randomness

INVOKE_METHOD: Final = "hub.invoke-method"
"""Bus subject; requests are `MethodInvocation`, answers `MethodReply`."""

ANSWERED: Final = ""
CONNECTION_LOST: Final = "connection-lost"
NO_ANSWER: Final = "method-timed-out"
TOO_MANY_CALLS: Final = "too-many-calls"

MAX_IN_FLIGHT: Final = 50
"""Calls one client may have before it: all their payloads fit into the buffer of a connection.
Azure documents the error (hub-service.md 1.7) but no number."""

EARLY_S: Final = 0.5
"""Seconds before the end of its time-outs that a call is given up. Node closes its socket exactly
at the end of both, measured on its side (hub-service.md 1.7)."""


class MethodInvocation(msgspec.Struct, array_like=True):
    """A direct method on its way to the node that has the client. Times in seconds."""

    hub: int
    device_id: str
    module_id: str
    name: str
    payload: bytes
    response_timeout_s: float
    connect_timeout_s: float


class MethodReply(msgspec.Struct, array_like=True):
    """What became of it.

    Attributes:
        outcome: `ANSWERED`, `CONNECTION_LOST`, `NO_ANSWER` or `TOO_MANY_CALLS`.
        status: the client's own, when it answered.
        payload: as the client sent it.
    """

    outcome: str
    status: int = 0
    payload: bytes = b""


@final
class PendingCalls:
    """The calls that one client has been sent and has not answered."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        # Most clients are never called: the table comes with the first call.
        self._futures: dict[int, asyncio.Future[MethodReply]] | None = None

    def __len__(self) -> int:
        """Count them."""
        return len(self._futures or ())

    def expect(self, request_id: int) -> asyncio.Future[MethodReply]:
        """Return what becomes the reply to a call; end it with `forget`."""
        if self._futures is None:
            self._futures = {}
        future: asyncio.Future[MethodReply] = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        return future

    def forget(self, request_id: int) -> None:
        """Take no answer to a call any more."""
        if self._futures:
            self._futures.pop(request_id, None)

    def answer(self, request_id: int, status: int, payload: bytes) -> None:
        """Take an answer; dropped in silence when nobody waits for it."""
        future = (self._futures or {}).get(request_id)
        if future is not None and not future.done():
            future.set_result(MethodReply(ANSWERED, status, payload))

    def fail(self) -> None:
        """The connection is over."""
        for future in (self._futures or {}).values():
            if not future.done():
                future.set_result(MethodReply(CONNECTION_LOST))


@final
class MethodWaits:
    """Calls that wait for a client to come and subscribe."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[IdentityRef, set[asyncio.Future[None]]] = {}

    async def next(self, ref: IdentityRef) -> None:
        """Return when the identity may have begun to take methods."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._futures.setdefault(ref, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._futures.get(ref) is waiting:
                del self._futures[ref]

    def wake(self, ref: IdentityRef) -> None:
        """Have everybody look again who waits for an identity."""
        for future in self._futures.pop(ref, ()):
            if not future.done():
                future.set_result(None)


@final
class MethodCalls:
    """Carries out the calls that are for the clients of this node.

    Args:
        connections: has the clients.
        bus: brings the calls.
        randomness: where request IDs begin, so that an answer to a call before a restart is not
            taken for one to a call after it.
    """

    def __init__(self, connections: Connections, bus: Bus, randomness: Randomness) -> None:
        self._connections = connections
        self._bus = bus
        first = int.from_bytes(randomness.token_bytes(4), "big") + 1
        self._request_ids = itertools.count(first)

    def open(self) -> None:
        """Take calls from the bus, from now on."""
        self._bus.respond(INVOKE_METHOD, self._respond)

    async def _respond(self, message: bytes) -> bytes | None:
        call = _decode(message)
        connection = await self._taker(call)
        return None if connection is None else _encode(await self._ask(connection, call))

    async def _taker(self, call: MethodInvocation) -> Connection | None:
        """Return the connection to call, waiting for it if the caller does."""
        ref = IdentityRef(call.hub, call.device_id, call.module_id)
        try:
            async with asyncio.timeout(call.connect_timeout_s):
                while True:
                    connection = self._connections.get(ref)
                    if connection is not None and connection.link.takes_method(call.name):
                        return connection
                    if not call.connect_timeout_s:
                        return None
                    await self._connections.method_waits.next(ref)
        except TimeoutError:
            return None

    async def _ask(self, connection: Connection, call: MethodInvocation) -> MethodReply:
        calls = connection.calls
        if len(calls) >= MAX_IN_FLIGHT:
            return MethodReply(TOO_MANY_CALLS)
        request_id = next(self._request_ids)
        future = calls.expect(request_id)
        connection.link.invoke_method(request_id, call.name, call.payload)
        try:
            async with asyncio.timeout(call.response_timeout_s):
                return await future
        except TimeoutError:
            return MethodReply(NO_ANSWER)
        finally:
            calls.forget(request_id)


_decode: Final = msgspec.msgpack.Decoder(MethodInvocation).decode
_encode: Final = msgspec.msgpack.Encoder().encode
