"""Delivery feedback: how cloud-to-device messages ended, for the back ends that asked.

A record is written in the commit that ends its message; here records are put into batches, which
wait in a queue of the hub. Sources: hub-device.md 7; hub-service.md 3.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec
from msgspec import Struct

from muster.hub import queue_rows
from muster.hub.feedback_records import BATCH_AGE_S, BATCH_SIZE
from muster.hub.queue_rows import SQL, Address, Kind
from muster.hub.registry import LostRaceError
from muster.model.identity import wire_time
from muster.model.queued_message import DEFAULT_TTL_S, QueuedMessage
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.feedback_records import FeedbackRecords
    from muster.hub.queues import Queues
    from muster.store.engine import Engine, Params

CONTENT_TYPE: Final = "application/vnd.microsoft.iothub.feedback.json"

_SQL: Final = load("feedback")
_encode: Final = msgspec.json.Encoder().encode
_Columns: TypeAlias = tuple[int, str, str, str, str, float]


class FeedbackRecord(Struct, rename="camel"):
    """How one cloud-to-device message ended.

    Attributes:
        original_message_id: as its sender numbered it.
        enqueued_time_utc: when it ended.
        status_code: an `Outcome`.
        description: the same for people.
        device_id: whose message it was.
        device_generation_id: tells devices of the same name apart that replaced each other.
    """

    original_message_id: str
    enqueued_time_utc: str
    status_code: str
    description: str
    device_id: str
    device_generation_id: str


@final
class FeedbackBatches:
    """Puts feedback records into batches: 64 of them, or what there is after 15 seconds.

    Args:
        engine: where records are kept.
        clock: for their age.
        queues: where batches go.
        records: knows which hubs have any.
    """

    __slots__ = ("_clock", "_engine", "_queues", "_records")

    def __init__(
        self, engine: Engine, clock: Clock, queues: Queues, records: FeedbackRecords
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._queues = queues
        self._records = records

    async def open(self) -> None:
        """Learn what an earlier run left."""
        for row in await self._engine.read(_SQL["waiting"], {}):
            hub, count, oldest = cast("tuple[int, int, float]", row)
            self._records.note(hub, count, oldest)

    async def tick(self) -> None:
        """Make the batches that are due."""
        for hub in self._records.take_due():
            try:
                await self._flush(hub)
            except BaseException:
                self._records.note(hub, BATCH_SIZE)
                raise

    async def _flush(self, hub: int) -> None:
        while True:
            params: Params = {"hub": hub, "limit": BATCH_SIZE}
            rows = cast("list[_Columns]", await self._engine.read(_SQL["oldest"], params))
            if not rows:
                return
            now = self._clock.time()
            oldest = rows[0][5]
            if len(rows) < BATCH_SIZE and now < oldest + BATCH_AGE_S:
                self._records.note(hub, len(rows), oldest)
                return
            try:
                await self._put(hub, rows, now)
            except LostRaceError:
                # A device was deleted, and its feedback with it.
                continue

    async def _put(self, hub: int, rows: list[_Columns], now: float) -> None:
        batch = [
            FeedbackRecord(
                message_id, wire_time(recorded_at), outcome, outcome, device_id, generation_id
            )
            for _, device_id, generation_id, message_id, outcome, recorded_at in rows
        ]
        address = Address(hub, Kind.FEEDBACK)
        expires_at = now + DEFAULT_TTL_S
        message = QueuedMessage(content_type=CONTENT_TYPE, body=_encode(batch))
        taken = {"hub": hub, "first": rows[0][0], "last": rows[-1][0]}
        lost = LostRaceError("A device was deleted meanwhile.")
        await self._engine.write(
            Statement(_SQL["remove"], taken, expect=len(rows), otherwise=lost),
            queue_rows.insertion(SQL["insert"], address, message, now=now, expires_at=expires_at),
        )
        self._queues.added(address, expires_at)
