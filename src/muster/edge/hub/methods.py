"""Direct methods to the clients of the edge hub: sent, waited for, answered (edge.md 6.3)."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, final

from muster.edge.measures import Summary, one_of
from muster.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from muster.edge.hub.clients import Clients, Link
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef

MAX_IN_FLIGHT: Final = 50
"""Calls one client may have before it; their payloads are at most 128 KiB each."""


class Answer(NamedTuple):
    """What a client has answered.

    Attributes:
        status: its own.
        payload: as it sent it.
    """

    status: int
    payload: bytes


@final
class Methods:
    """Calls methods, and takes the answers. Watches `Clients`.

    Args:
        clients: the connections.
        randomness: where request IDs begin, so that an answer from before a restart is not taken
            for one to a call after it.

    Attributes:
        calls: methods each client was sent, since the start.
        answering: how long its answers took, seconds.
    """

    def __init__(self, clients: Clients, randomness: Randomness) -> None:
        self._clients = clients
        self.calls: Counter[IdentityRef] = Counter()
        self.answering: dict[IdentityRef, Summary] = {}
        self._request_ids = itertools.count(int.from_bytes(randomness.token_bytes(4), "big") + 1)
        self._calls: dict[IdentityRef, dict[int, asyncio.Future[Answer | None]]] = {}
        self._waits: dict[IdentityRef, set[asyncio.Future[None]]] = {}
        clients.watch(self)

    async def invoke(
        self,
        ref: IdentityRef,
        name: str,
        payload: bytes,
        *,
        response_timeout_s: float,
        connect_timeout_s: float,
    ) -> Answer:
        """Call a method.

        Raises:
            NotFoundError: the client is not there, or takes no such method; code
                `client-not-found`.
            UnavailableError: it has not answered; codes `method-timed-out`, `too-many-calls`.
        """
        link = await self._taker(ref, name, connect_timeout_s)
        if link is None:
            raise NotFoundError(f"Client {ref.text} not found", code="client-not-found")
        calls = self._calls.setdefault(ref, {})
        if len(calls) >= MAX_IN_FLIGHT:
            raise UnavailableError(f"Client {ref.text} is busy", code="too-many-calls")
        request_id = next(self._request_ids)
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        calls[request_id] = future
        self.calls[ref] += 1
        began = asyncio.get_running_loop().time()
        link.invoke_method(request_id, name, payload)
        try:
            async with asyncio.timeout(response_timeout_s):
                answer = await future
        except TimeoutError:
            answer = None
        finally:
            calls.pop(request_id, None)
            if not calls:
                self._calls.pop(ref, None)
        if answer is None:
            raise UnavailableError(
                f"Client {ref.text} has not answered the method '{name}'", code="method-timed-out"
            )
        one_of(self.answering, ref).observe(asyncio.get_running_loop().time() - began)
        return answer

    def answered(self, ref: IdentityRef, request_id: int, status: int, payload: bytes) -> None:
        """Take an answer; dropped in silence when nobody waits for it."""
        future = self._calls.get(ref, {}).get(request_id)
        if future is not None and not future.done():
            future.set_result(Answer(status, payload))

    def came(self, ref: IdentityRef) -> None:
        """Let those who wait for a client look again."""
        for future in self._waits.pop(ref, ()):
            if not future.done():
                future.set_result(None)

    def left(self, ref: IdentityRef) -> None:
        """Calls that are under way have failed with the connection."""
        for future in self._calls.get(ref, {}).values():
            if not future.done():
                future.set_result(None)

    async def _next(self, ref: IdentityRef) -> None:
        """Return when a client may have begun to take methods."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waits.setdefault(ref, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._waits.get(ref) is waiting:
                del self._waits[ref]

    async def _taker(self, ref: IdentityRef, name: str, patience_s: float) -> Link | None:
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    link = self._clients.get(ref)
                    if link is not None and link.takes_method(name):
                        return link
                    if not patience_s:
                        return None
                    await self._next(ref)
        except TimeoutError:
            return None
