"""Sending clients the desired properties they missed: switched on per hub, off by default.

The official service does not: a change is told to who is connected at that moment, and a client
that was away has to ask for its whole twin. Where this is on, the version that surely reached a
client is kept, and when it subscribes again it is sent what is newer (`muster.hub.desired_feed`).

Deliveries are written together every few seconds. What a crash takes of them is sent again, never
left out. What is removed is kept with the write that removes it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import msgspec

from muster.hub import twin_rows
from muster.model import twin as twin_rules
from muster.model import twin_catch_up as rules
from muster.model.twin import TwinSection
from muster.net.tasks import repeat
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.hub.desired_feed import DesiredFeed
    from muster.hub.hubs import Hub, Hubs
    from muster.model.identity import IdentityRef
    from muster.model.twin import JsonObject
    from muster.store.engine import Engine, Params

WRITE_EVERY_S: Final = 5.0
"""Seconds deliveries are only in memory."""
WRITE_LIMIT: Final = 5000
"""Deliveries in one write."""

_SQL: Final = load("twin_catch_up")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_decode_path: Final = msgspec.json.Decoder(list[str]).decode


class Delivery(NamedTuple):
    """The version an identity has, and the generation it is of: a new one has nothing."""

    generation_id: str
    version: int


class Missed(NamedTuple):
    """What a client is to be sent.

    Attributes:
        version: what it has then.
        body: of the notification; `None` when there is nothing new in it.
    """

    version: int
    body: bytes | None


@final
class TwinCatchUp:
    """Knows what clients have of their desired properties.

    Args:
        engine: keeps it.
        hubs: the hubs of this service.
    """

    def __init__(self, engine: Engine, hubs: Hubs) -> None:
        self._engine = engine
        self._hubs = hubs
        self._unwritten: dict[IdentityRef, Delivery] = {}
        self._switched = 0
        self._unsure: set[DesiredFeed] = set()

    async def open(self) -> None:
        """Switch it on where it was on before; call once, with the hubs loaded."""
        rows = await self._engine.read(_SQL["hubs"], {})
        numbers = {cast("int", number) for (number,) in rows}
        for hub in self._hubs.all():
            if hub.id in numbers:
                hub.twin_catch_up = self._number()

    async def switch(self, hub: Hub, *, on: bool) -> None:
        """Switch it on or off. Off forgets what clients have: it would not be true later."""
        if on is bool(hub.twin_catch_up):
            return
        steps = [Statement(_SQL["switch"], {"id": hub.id, "on": int(on)}, expect=1)]
        if not on:
            hub.twin_catch_up = 0
            names = ("forget_deliveries", "forget_removals")
            steps += [Statement(_SQL[name], {"hub": hub.id}) for name in names]
            for ref in [ref for ref in self._unwritten if ref.hub == hub.id]:
                del self._unwritten[ref]
        await self._engine.write(*steps)
        hub.twin_catch_up = self._number() if on else 0

    def on(self, hub: int) -> bool:
        """Tell whether it is on for a hub, by its number."""
        return bool(self._hubs.by_id(hub).twin_catch_up)

    def removals(
        self, ref: IdentityRef, before: JsonObject, section: TwinSection
    ) -> Sequence[Statement]:
        """Return the steps that go with a write of desired properties.

        Args:
            ref: whose.
            before: the desired properties that are written over.
            section: what is written.
        """
        if not self.on(ref.hub):
            return ()
        removed = rules.removed(before, section.properties)
        if not removed:
            return ()
        paths = {_encode(path).decode(): section.version for path in removed}
        params: Params = {
            **twin_rows.key(ref),
            "version": section.version,
            "paths": _encode(paths).decode(),
        }
        return (Statement(_SQL["removed"], params),)

    async def missed(self, ref: IdentityRef, known: Delivery) -> Missed | None:
        """Return what a client does not have yet.

        Args:
            ref: whose twin.
            known: what its connection was sent; what is on record counts when that is newer.

        Returns:
            `None` when the twin is gone.
        """
        rows = await self._engine.read(_SQL["state"], twin_rows.key(ref))
        if not rows:
            return None
        desired, metadata, version, *stored, removals = cast(
            "tuple[str, str, int, str | None, int | None, str | None]", rows[0]
        )
        since = known.version
        for each in (Delivery(*cast("tuple[str, int]", stored)), self._unwritten.get(ref)):
            if each is not None and each.generation_id == known.generation_id:
                since = max(since, each.version)
        if since >= version:
            return Missed(version, None)
        # Also for who is not known to have anything: it may have what it was sent last.
        gone = _decode(removals) if removals else {}
        patch = rules.missed(
            TwinSection(_decode(desired), _decode(metadata), version),
            since,
            [_decode_path(path) for path, removed_by in gone.items() if removed_by > since],
        )
        body = _encode(twin_rules.desired_patch_for_device(patch, version)) if patch else None
        return Missed(version, body)

    # -- deliveries ----------------------------------------------------------------------------

    def delivered(self, ref: IdentityRef, delivery: Delivery) -> None:
        """Note that a version has reached a client."""
        self._unwritten[ref] = delivery

    def watch(self, feed: DesiredFeed) -> None:
        """Ask a feed from time to time whether what it sent has arrived."""
        self._unsure.add(feed)

    def forget(self, feed: DesiredFeed) -> None:
        """Ask it no more."""
        self._unsure.discard(feed)

    async def run(self) -> None:
        """Write deliveries down, for ever. The composition root runs this."""
        await repeat(WRITE_EVERY_S, self.write_down, "deliveries of desired properties")

    async def write_down(self) -> None:
        """Write deliveries down.

        Raises:
            UnavailableError: they could not be written, and wait for the next time.
        """
        for number, feed in enumerate(list(self._unsure), 1):
            feed.look()
            if number % WRITE_LIMIT == 0:
                await asyncio.sleep(0)
        while self._unwritten:
            await self._write()

    async def _write(self) -> None:
        batch = dict(list(self._unwritten.items())[:WRITE_LIMIT])
        rows: list[Params] = [
            {**twin_rows.key(ref), **delivery._asdict()} for ref, delivery in batch.items()
        ]
        await self._engine.write(
            Statement(_SQL["delivered"], rows), Statement(_SQL["settled"], rows)
        )
        for ref, delivery in batch.items():
            # What came meanwhile is newer.
            if self._unwritten.get(ref) is delivery:
                del self._unwritten[ref]

    def _number(self) -> int:
        self._switched += 1
        return self._switched
