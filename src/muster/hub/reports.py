"""What devices report, written many at a time.

A deployment has thousands of agents answer at once, and a mass reboot thousands of devices. What
comes while one batch is being written is the next one, so a device that reports alone never waits,
and each of many costs a fraction of a read and of a write.

A batch is read, decided and written on the condition that nobody changed its twins meanwhile.
When somebody did, it is halved until the twins that are free are done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast, final

import msgspec
from msgspec import Struct

from muster.errors import PreconditionFailedError
from muster.hub import twin_rows
from muster.hub.changes import SectionChange, TwinChanged
from muster.hub.modules import module_not_found
from muster.hub.registry import ATTEMPTS, LostRaceError, device_not_found
from muster.hub.twin_rows import SQL
from muster.model import twin as twin_rules
from muster.model.identity import IdentityRef
from muster.net.tasks import spawn
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.model.twin import JsonObject, Twin
    from muster.store.engine import Engine

BATCH: Final = 100
"""Reports in one transaction, so that the event loop is never busy with it for long."""

_encode: Final = msgspec.json.Encoder().encode


@final
class _Report(Struct, eq=False):
    """What a device reports, and whoever waits for it to be safe."""

    ref: IdentityRef
    patch: JsonObject
    expected_version: int | None
    done: asyncio.Future[int]

    def fail(self, error: Exception) -> None:
        """Say that it cannot be written. Harmless when nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(error)


@final
class Reports:
    """Merges into twins what devices report.

    Args:
        engine: where twins are kept.
        clock: for `$lastUpdated`.
        changes: is told of every write.
    """

    __slots__ = ("_changes", "_clock", "_engine", "_waiting", "_working")

    def __init__(self, engine: Engine, clock: Clock, changes: Changes) -> None:
        self._engine = engine
        self._clock = clock
        self._changes = changes
        self._waiting: list[_Report] = []
        self._working = False

    async def report(
        self, ref: IdentityRef, patch: JsonObject, expected_version: int | None
    ) -> int:
        """Merge one report; see `muster.hub.twins.Twins.report`.

        Of one twin there is at most one at a time.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Report(ref, patch, expected_version, done))
        if not self._working:
            self._working = True
            spawn(self._work(), "reported properties")
        return await done

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    await self._settle(batch)
                finally:
                    # Only when this task is ended is anybody left.
                    for each in batch:
                        each.done.cancel()
        finally:
            self._working = False
            for each in self._waiting:
                each.done.cancel()
            self._waiting = []

    async def _settle(self, batch: list[_Report]) -> None:
        """Have everybody in a batch learn what became of their report."""
        for _ in range(ATTEMPTS if len(batch) == 1 else 1):
            # Who has given up may have come again.
            batch = [each for each in batch if not each.done.done()]
            try:
                await self._write(batch)
            except LostRaceError:
                continue
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
                if len(batch) == 1:
                    batch[0].fail(error)
                    return
                break
            return
        if len(batch) == 1:
            lost = LostRaceError("The twin is being changed by others.", subject=batch[0].ref.text)
            batch[0].fail(lost)
        elif batch:
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])

    async def _write(self, batch: list[_Report]) -> None:
        rows = await self._engine.read(
            SQL["get_reported"], {"refs": _encode([each.ref for each in batch]).decode()}
        )
        found = {IdentityRef(*cast("tuple[int, str, str]", row[:3])): row[3:] for row in rows}
        written: list[tuple[_Report, Twin]] = []
        updates: list[tuple[int, str, str, int, str, str, int]] = []
        now = self._clock.now()
        for each in batch:
            row = found.get(each.ref)
            if row is None:
                each.fail(_gone(each.ref))
                continue
            before, revision = twin_rows.reported_from_columns(row)
            version, expected = before.reported.version, each.expected_version
            if expected is not None and expected != version:
                each.fail(_version_mismatch(each.ref, expected, version))
                continue
            try:
                after = twin_rules.patch_reported(before, each.patch, now)
            except Exception as error:  # noqa: BLE001 - one report's mistake must not touch others
                each.fail(error)
                continue
            written.append((each, after))
            updates.append(twin_rows.reported_update(each.ref, revision, after))
        if not updates:
            return
        await self._engine.write(
            Statement(
                SQL["report"],
                {"updates": _encode(updates).decode()},
                expect=len(updates),
                otherwise=LostRaceError("A twin was changed by another."),
            )
        )
        for each, twin in written:
            change = SectionChange(each.patch, twin.reported)
            self._changes.publish(TwinChanged(each.ref, twin.version, reported=change))
            if not each.done.done():
                each.done.set_result(twin.reported.version)


def _version_mismatch(ref: IdentityRef, expected: int, version: int) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"The reported properties are at version {version}, not {expected}.",
        code="version-mismatch",
        subject=ref.text,
    )


def _gone(ref: IdentityRef) -> Exception:
    return module_not_found(ref) if ref.module_id else device_not_found(ref.device_id)
