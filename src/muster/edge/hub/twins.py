"""Copies of the clients' twins, so that they work without the cloud (edge.md 6.3).

A client is told the cloud's twin while there is a link, and the copy otherwise. What it reports is
committed here and then passed on, in order; what it was told of its desired properties is
remembered, so that it gets the difference when it has missed something, however long it or the
link was away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast, final

import msgspec
import structlog
from msgspec import Struct

from muster.edge.hub.database import SQL, decoded
from muster.edge.measures import Summary, one_of
from muster.edge.upstream.base import HubError, NoLinkError
from muster.errors import MusterError, PreconditionFailedError
from muster.model import twin as twin_rules
from muster.model.merge_patches import compose, difference, merge
from muster.net.tasks import spawn
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muster.edge.hub.broker import Broker
    from muster.edge.hub.clients import Clients
    from muster.edge.upstream.base import Session
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

REPORT_AFTER_S: Final = 5.0
"""What is reported meanwhile goes up as one patch (`ReportedPropertiesSyncFrequencySecs`)."""
MAX_PENDING: Final = 100
"""Patches that wait for the link, where they cannot be put together."""
ANSWER_S: Final = 10.0
"""How long the cloud may take before the copy counts."""

_MAX_COPIES: Final = 256
_PASSES: Final = range(400, 500)
_BUSY: Final = 429

JsonObject: TypeAlias = dict[str, Any]
_log = structlog.get_logger(__name__)


class Cloud(Protocol):
    """Has the sessions of the clients."""

    def session(self, ref: IdentityRef) -> Session | None:
        """Return the session of an identity while it is connected."""

    async def first_try(self, ref: IdentityRef) -> None:
        """Wait for a session that has just begun to come about, or not."""


class Copy(Struct, kw_only=True):
    """A copy of a twin.

    Attributes:
        desired: properties, without `$version`.
        desired_version: 0 when the cloud has never been asked.
        reported: as the cloud had it, and what was reported since.
        reported_version: of it.
        pending: patches the cloud does not have yet, oldest first.
        seen: desired properties as the client was told them last, when they are others.
    """

    desired: JsonObject = {}
    desired_version: int = 0
    reported: JsonObject = {}
    reported_version: int = 0
    pending: list[JsonObject] = []
    seen: JsonObject | None = None

    def view(self) -> bytes:
        """Return it as a client gets it."""
        return msgspec.json.encode(
            {
                "desired": {**self.desired, "$version": self.desired_version},
                "reported": {**self.reported, "$version": self.reported_version},
            }
        )


@final
class Twins:
    """The copies. Watches `Clients`.

    Args:
        engine: keeps them.
        clients: who is told of changes.
        broker: has the routes that want to know of changes.

    Attributes:
        cloud: to be set before it is used.
        reads: twins each client has read, since the start.
        patches: patches of reported properties each client has sent.
        reading: how long reading a twin took, by where it came from, `upstream` or `edgehub`.
        reporting: how long the cloud took for reported properties of each client, seconds.
    """

    def __init__(self, engine: Engine, clients: Clients, broker: Broker) -> None:
        self._engine = engine
        self._clients = clients
        self._broker = broker
        self._copies: dict[IdentityRef, Copy] = {}
        self._locks: dict[IdentityRef, asyncio.Lock] = {}
        self._pending: set[IdentityRef] = set()
        self._timers: dict[IdentityRef, asyncio.TimerHandle] = {}
        self.cloud: Cloud | None = None
        self.reads: Counter[IdentityRef] = Counter()
        self.patches: Counter[IdentityRef] = Counter()
        self.reading: dict[tuple[str, IdentityRef], Summary] = {}
        self.reporting: dict[IdentityRef, Summary] = {}
        clients.watch(self)

    async def load(self, names: list[IdentityRef]) -> None:
        """Find out whose reported properties wait for the cloud."""
        known = {ref.text: ref for ref in names}
        for identity, document in await self._engine.read(SQL["twins"], {}):
            name = cast("str", identity)
            ref, copy = known.get(name), decoded(document, Copy, f"the twin of {name}")
            if ref is not None and copy is not None and copy.pending:
                self._pending.add(ref)

    def waits(self, ref: IdentityRef) -> bool:
        """Tell whether something is reported that the cloud does not have."""
        return ref in self._pending

    @property
    def waiting(self) -> list[IdentityRef]:
        """Those whose reported properties wait for the cloud."""
        return list(self._pending)

    # What clients ask.

    async def get(self, ref: IdentityRef) -> bytes:
        """Return the twin, the cloud's if it says it, as a client gets it.

        Raises:
            UnavailableError: the disk does not answer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self.cloud is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self.cloud.first_try(ref)
        async with self._lock(ref):
            copy = await self._copy(ref)
            await self._push(ref, copy)
            source = "upstream" if await self._fetch(ref, copy) else "edgehub"
            # Without a copy the client is told of an empty twin, and of the difference later.
            seen: JsonObject | None = None if copy.desired_version else {}
            if copy.seen != seen:
                copy.seen = seen
                await self._save(ref, copy)
            self.reads[ref] += 1
            one_of(self.reading, (source, ref)).observe(loop.time() - began)
            return copy.view()

    async def report(self, ref: IdentityRef, patch: JsonObject, version: int | None) -> int:
        """Take a patch of reported properties; return the version it has made.

        Raises:
            InvalidArgumentError: the patch breaks a rule of twins.
            PreconditionFailedError: the version is another one.
            UnavailableError: the disk refuses.
        """
        async with self._lock(ref):
            copy = await self._copy(ref)
            if version is not None and version != copy.reported_version:
                raise PreconditionFailedError("Precondition failed: $version is another one.")
            patch = twin_rules.without_service_members(patch)
            twin_rules.check_values(patch, "reported")
            reported = merge(copy.reported, patch)
            twin_rules.check_size(reported, "reported")
            copy.reported = reported
            copy.reported_version += 1
            copy.pending = _with(copy.pending, patch, reported)
            self._pending.add(ref)
            await self._save(ref, copy)
            made = copy.reported_version
            self.patches[ref] += 1
        self._push_soon(ref)
        body = msgspec.json.encode({"properties": {"reported": {**patch, "$version": made}}})
        await self._broker.twin_changed(ref, body)
        return made

    # What the cloud says.

    def linked(self, ref: IdentityRef) -> None:
        """There is a link: pass on what waits, and find out what was missed."""
        _begin(self._synchronize(ref), "twin synchronization")

    def subscribed(self, ref: IdentityRef) -> None:
        """Patches come from now on: find out what was missed before."""
        _begin(self._catch_up(ref), "missed desired properties")

    def desired_changed(self, ref: IdentityRef, patch: JsonObject) -> None:
        """Take a patch from the cloud."""
        _begin(self._take(ref, patch), "desired properties")

    async def forget(self, ref: IdentityRef) -> None:
        """Drop the copy of an identity that is no more."""
        async with self._lock(ref):
            self._copies.pop(ref, None)
            self._pending.discard(ref)
            await self._engine.write(Statement(SQL["drop_twin"], {"identity": ref.text}))

    # What clients do (`Observer`).

    def came(self, ref: IdentityRef) -> None:
        """Tell a client what it has missed."""
        link = self._clients.get(ref)
        if link is not None and link.takes_desired():
            _begin(self._tell(ref), "missed desired properties")

    def left(self, ref: IdentityRef) -> None:
        """Nothing to do."""

    # Within.

    async def _tell(self, ref: IdentityRef) -> None:
        async with self._lock(ref):
            copy = await self._copy(ref)
            if copy.seen is not None:
                await self._notify(ref, copy)

    async def _synchronize(self, ref: IdentityRef) -> None:
        async with self._lock(ref):
            copy = await self._copy(ref)
            await self._push(ref, copy)
            if copy.desired_version or self._clients.get(ref) is not None:
                await self._fetch_and_notify(ref, copy)

    async def _catch_up(self, ref: IdentityRef) -> None:
        async with self._lock(ref):
            await self._fetch_and_notify(ref, await self._copy(ref))

    async def _fetch_and_notify(self, ref: IdentityRef, copy: Copy) -> None:
        await self._fetch(ref, copy)
        if copy.seen is not None:
            await self._notify(ref, copy)

    async def _take(self, ref: IdentityRef, patch: JsonObject) -> None:
        async with self._lock(ref):
            copy = await self._copy(ref)
            version = patch.get("$version")
            if version == copy.desired_version:
                return
            if not copy.desired_version or version != copy.desired_version + 1:
                # Something was missed.
                await self._fetch_and_notify(ref, copy)
                return
            change = twin_rules.without_service_members(patch)
            before = copy.desired
            copy.desired = merge(before, change)
            copy.desired_version = version
            link = self._clients.get(ref)
            if copy.seen is None and link is not None and link.takes_desired():
                link.desired_changed(msgspec.json.encode(patch), version)
            elif copy.seen is None:
                copy.seen = before
            elif link is not None and link.takes_desired():
                await self._notify(ref, copy)
                return
            await self._save(ref, copy)

    async def _notify(self, ref: IdentityRef, copy: Copy) -> None:
        """Send a client the difference to what it was told last, if it takes it."""
        link = self._clients.get(ref)
        if copy.seen is None or not copy.desired_version:
            return
        if link is None or not link.takes_desired():
            return
        patch = difference(copy.seen, copy.desired)
        if patch:
            body = msgspec.json.encode({**patch, "$version": copy.desired_version})
            link.desired_changed(body, copy.desired_version)
        copy.seen = None
        await self._save(ref, copy)

    async def _fetch(self, ref: IdentityRef, copy: Copy) -> bool:
        """Bring the copy up to date, if the cloud answers; tell whether it does."""
        session = None if self.cloud is None else self.cloud.session(ref)
        if session is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await session.twin()
        except (NoLinkError, HubError, TimeoutError) as error:
            _log.info("twin not fetched", identity=ref.text, reason=str(error))
            return False
        desired, reported = found["desired"], found["reported"]
        version = desired["$version"]
        news = twin_rules.without_service_members(desired)
        known = twin_rules.without_service_members(reported)
        for patch in copy.pending:
            known = merge(known, patch)
        reported_version = reported["$version"] + len(copy.pending)
        if (version, news, known) == (copy.desired_version, copy.desired, copy.reported):
            copy.reported_version = reported_version
            return True
        if copy.desired_version and copy.seen is None and news != copy.desired:
            copy.seen = copy.desired
        copy.desired, copy.desired_version = news, version
        copy.reported, copy.reported_version = known, reported_version
        await self._save(ref, copy)
        return True

    async def _push(self, ref: IdentityRef, copy: Copy) -> None:
        """Pass on what was reported, as far as the cloud takes it now."""
        session = None if self.cloud is None else self.cloud.session(ref)
        loop = asyncio.get_running_loop()
        while copy.pending and session is not None:
            began = loop.time()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await session.report(copy.pending[0])
                one_of(self.reporting, ref).observe(loop.time() - began)
            except (NoLinkError, TimeoutError):
                return
            except HubError as error:
                if error.status not in _PASSES or error.status == _BUSY:
                    self._push_soon(ref)
                    return
                _log.warning("reported properties refused", identity=ref.text, reason=str(error))
            copy.pending = copy.pending[1:]
            if not copy.pending:
                self._pending.discard(ref)
            await self._save(ref, copy)

    def _push_soon(self, ref: IdentityRef) -> None:
        if ref not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[ref] = loop.call_later(REPORT_AFTER_S, self._push_now, ref)

    def _push_now(self, ref: IdentityRef) -> None:
        self._timers.pop(ref, None)
        _begin(self._push_alone(ref), "reported properties")

    async def _push_alone(self, ref: IdentityRef) -> None:
        async with self._lock(ref):
            await self._push(ref, await self._copy(ref))

    def _lock(self, ref: IdentityRef) -> asyncio.Lock:
        return self._locks.setdefault(ref, asyncio.Lock())

    async def _copy(self, ref: IdentityRef) -> Copy:
        copy = self._copies.get(ref)
        if copy is None:
            rows = await self._engine.read(SQL["twin"], {"identity": ref.text})
            kept = decoded(rows[0][0], Copy, f"the twin of {ref.text}") if rows else None
            copy = kept or Copy()
            self._make_room()
            self._copies[ref] = copy
        return copy

    def _make_room(self) -> None:
        if len(self._copies) >= _MAX_COPIES:
            for ref in list(self._copies)[: _MAX_COPIES // 4]:
                if not self._lock(ref).locked():
                    # What was changed has been written.
                    del self._copies[ref]
                    del self._locks[ref]

    async def _save(self, ref: IdentityRef, copy: Copy) -> None:
        try:
            document = _encode(copy).decode()
            await self._engine.write(
                Statement(SQL["put_twin"], {"identity": ref.text, "document": document})
            )
        except MusterError:
            # Memory must not know more than the disk.
            self._copies.pop(ref, None)
            raise


def _with(pending: list[JsonObject], patch: JsonObject, reported: JsonObject) -> list[JsonObject]:
    """Return patches with one more, put together as far as that means the same.

    Args:
        pending: the patches, in order.
        patch: the newest.
        reported: what all of them lead to.
    """
    together = compose(pending[-1], patch) if pending else None
    if together is not None:
        return [*pending[:-1], together]
    if len(pending) < MAX_PENDING:
        return [*pending, patch]
    # Whatever they touched is said anew: first that it is gone, then what it is.
    touched = {name for each in (*pending, patch) for name in each}
    return [
        dict.fromkeys(touched),
        {name: reported[name] for name in touched if name in reported},
    ]


_encode: Final = msgspec.json.Encoder().encode


def _begin(work: Coroutine[Any, Any, None], what: str) -> None:
    """Do something that nobody waits for."""
    spawn(_guarded(work, what), what)


async def _guarded(work: Coroutine[Any, Any, None], what: str) -> None:
    try:
        await work
    except MusterError as error:
        # The disk refuses. The copy is as it was, and what differs is found when it is next asked.
        _log.warning("a twin is not kept", work=what, reason=error.message)
