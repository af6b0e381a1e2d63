"""Who may connect to this edge hub: the hub's device scope, kept on disk (edge.md 6.3, 6.4).

The copy on disk is what counts while the hub is out of reach, also after a reboot.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import msgspec
import structlog

from muster.edge.hub.database import SQL, decoded
from muster.edge.hub.members import Member, Members, local, of_page, page_of
from muster.edge.upstream.errors import RefusedError, UpstreamError
from muster.model.pacing import Pace
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from muster.clock import Clock
    from muster.edge.upstream.device_scope import ScopePage
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

REFRESH_S: Final = 3_600.0
"""The whole scope is asked for so often."""
ASK_AGAIN_S: Final = 10.0
"""One identity is asked for at most so often, however often somebody claims to be it."""
ASK_PACE: Final = Pace(rate=2.0, burst=20)
"""Questions about all identities together: names cost nothing to make up."""
_ASK_S: Final = 20.0
_MOST_ASKED: Final = 1_024

_NOT_THERE: Final = 404
_log = structlog.get_logger(__name__)

_Question: TypeAlias = "tuple[IdentityRef, str | None]"
"""Whom it is about, and the edge device that wants to know; `None` for this one."""


class ScopeSource(Protocol):
    """Asks the hub: `upstream.device_scope.DeviceScope`. Both raise `UpstreamError`."""

    def pages(self, auth_chain: str | None = None) -> AsyncIterator[ScopePage]:
        """Yield the whole scope of an edge device; `None` for this one."""

    async def one(
        self, device_id: str, module_id: str | None = None, auth_chain: str | None = None
    ) -> ScopePage:
        """Return one identity of the scope of an edge device; `None` for this one."""


@final
class Scope:
    """The members.

    Args:
        device_id: of this device.
        engine: keeps them.
        source: asks the hub.
        clock: for pauses between questions.
        gone: called with each identity that is not or not any more to be served.
    """

    def __init__(
        self,
        device_id: str,
        engine: Engine,
        source: ScopeSource,
        clock: Clock,
        gone: Callable[[IdentityRef], None],
    ) -> None:
        self._engine = engine
        self._source = source
        self._clock = clock
        self._gone = gone
        self._members = Members(device_id)
        self._asked: dict[_Question, float] = {}
        self._renewed: dict[_Question, float] = {}
        self._arrival = 0.0
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the copy on disk."""
        for (document,) in await self._engine.read(SQL["scope"], {}):
            # The hub says it again when it can be asked.
            member = decoded(document, Member, "a member of the scope")
            if member is not None:
                self._members.put([member])

    def find(self, ref: IdentityRef) -> Member | None:
        """Return a member as it was known last."""
        return self._members.find(ref)

    def names(self) -> list[IdentityRef]:
        """Return all members."""
        return self._members.names()

    def auth_chain(self, ref: IdentityRef) -> str | None:
        """See `Members.auth_chain`."""
        return self._members.auth_chain(ref)

    def lineage(self, ref: IdentityRef) -> list[str]:
        """See `Members.lineage`."""
        return self._members.lineage(ref)

    def page(self, device_id: str, size: int, after: str) -> ScopePage:
        """Return what the hub would say of the scope of an edge device.

        Args:
            device_id: of the edge device.
            size: devices of a page.
            after: only IDs behind this one; the link to the next page is the last one.
        """
        devices = [
            each
            for each in self._members.scope_of(device_id)
            if not after or each.device_id > after
        ]
        shown = devices[:size]
        modules = self._members.modules_of({each.device_id for each in shown})
        more = shown[-1].device_id if len(devices) > size else None
        return page_of(shown, modules, more)

    def one(self, ref: IdentityRef) -> ScopePage:
        """Return what the hub would say of a device, or of a module and its device."""
        found = [self._members.find(local(ref.device_id)), self._members.find(ref)]
        known = [each for each in found if each is not None]
        return page_of(
            [each for each in known[:1] if not each.module_id],
            [each for each in known if each.module_id],
        )

    async def refresh(self) -> None:
        """Ask for the whole scope.

        Raises:
            UpstreamError: the hub did not say; what was known stays.
            UnavailableError: the disk does not answer.
        """
        async with self._lock:
            found = await self._all(None)
            await self._put(found, dropped=set(self._members.names()) - found.keys())

    async def renew(self, device_id: str) -> None:
        """Ask for the whole scope of an edge device below this one, unless that was done just now.

        What was known stays where the hub does not say.
        """
        ref = local(device_id)
        chain = self._members.lineage(ref)
        if not chain or not self._may_ask((ref, None), self._renewed):
            return
        try:
            async with asyncio.timeout(_ASK_S), self._lock:
                found = await self._all(";".join(chain))
                await self._put(found, dropped=self._members.below(device_id) - found.keys())
        except (UpstreamError, TimeoutError) as error:
            _log.info("scope not asked for", identity=ref.text, reason=str(error))

    async def ask(self, ref: IdentityRef, edge: str | None = None) -> bool:
        """Ask for one identity, unless that was done just now or too much is asked.

        Args:
            ref: whom it is about.
            edge: the edge device it must be a module of, or below; `None` for the one it was last.

        Returns:
            Whether what is known of it is what the hub says now.
        """
        if not self._may_ask((ref, edge), self._asked):
            return False
        lineage = self._members.lineage(ref)
        chain = lineage[1:] if edge is None else self._members.lineage(local(edge))
        try:
            async with asyncio.timeout(_ASK_S), self._lock:
                page = await self._source.one(
                    ref.device_id, ref.module_id or None, ";".join(chain) or None
                )
                await self._put_with_those_below(of_page(page))
        except RefusedError as error:
            if error.status != _NOT_THERE:
                return False
            # Whoever says that somebody is below it is not believed about those who are not.
            if edge is None or edge in (ref.device_id, self._above(ref)):
                await self.drop(ref)
        except (UpstreamError, TimeoutError) as error:
            _log.info("identity not asked for", identity=ref.text, reason=str(error))
            return False
        return True

    def outdated(self, ref: IdentityRef) -> None:
        """Note that an identity has changed: it may be asked for again, however soon."""
        for question in [each for each in self._asked if each[0] == ref]:
            del self._asked[question]

    async def drop(self, ref: IdentityRef) -> None:
        """Let an identity go that the hub does not have any more.

        Raises:
            UnavailableError: the disk does not answer.
        """
        async with self._lock:
            await self._put({}, dropped={ref} if self._members.find(ref) is not None else set())

    # Within.

    def _above(self, ref: IdentityRef) -> str | None:
        """Return the edge device above the device of an identity."""
        return next(iter(self._members.lineage(local(ref.device_id))[1:]), None)

    async def _put_with_those_below(self, found: dict[IdentityRef, Member]) -> None:
        """Take identities, and whoever is below an edge device that was not known."""
        new = [
            each.ref
            for each in found.values()
            if each.iot_edge and self._members.find(each.ref) is None
        ]
        await self._put(found, dropped=set())
        for ref in new:
            lineage = self._members.lineage(ref)
            try:
                below = await self._all(";".join(lineage)) if lineage else {}
            except UpstreamError as error:
                _log.info("scope not asked for", identity=ref.text, reason=error.message)
            else:
                await self._put(below, dropped=set())

    async def _all(self, auth_chain: str | None) -> dict[IdentityRef, Member]:
        found: dict[IdentityRef, Member] = {}
        async for page in self._source.pages(auth_chain):
            found.update(of_page(page))
        return found

    def _may_ask(self, question: _Question, asked: dict[_Question, float]) -> bool:
        now = self._clock.monotonic()
        if now - asked.get(question, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        if ASK_PACE.wait_s(self._arrival, now):
            return False
        self._arrival = ASK_PACE.after(self._arrival, now)
        if len(asked) >= _MOST_ASKED:
            asked.clear()
        asked[question] = now
        return True

    async def _put(self, found: dict[IdentityRef, Member], dropped: set[IdentityRef]) -> None:
        changed = {ref: each for ref, each in found.items() if self._members.find(ref) != each}
        statements: list[Statement] = []
        if changed:
            rows = [
                {"identity": ref.text, "document": _encode(each).decode()}
                for ref, each in changed.items()
            ]
            statements.append(Statement(SQL["put_scope"], rows))
        if dropped:
            rows = [{"identity": ref.text} for ref in dropped]
            statements.append(Statement(SQL["drop_scope"], rows))
        if not statements:
            return
        await self._engine.write(*statements)
        # An identity that was changed proves itself anew.
        ended = {ref for ref in changed if self._members.find(ref) is not None} | dropped
        self._members.put(changed.values())
        for ref in dropped:
            self._members.drop(ref)
        for ref in ended:
            self._gone(ref)


_encode: Final = msgspec.json.Encoder().encode
