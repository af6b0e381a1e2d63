"""The message queues of all hubs, built and kept going."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.hub.cloud_to_device import CloudToDevice
from muster.hub.feedback import FeedbackBatches
from muster.hub.feedback_records import FeedbackRecords
from muster.hub.queue_rows import Kind
from muster.hub.queues import Queues
from muster.hub.service_bound import FileNotifier, ServiceBound
from muster.net.tasks import repeat

if TYPE_CHECKING:
    from muster.bus.base import Bus
    from muster.clock import Clock
    from muster.ids import Randomness
    from muster.store.engine import Engine

TICK_S: Final = 1.0
"""Seconds between two looks at the clock."""


@final
class Messaging:
    """Everything that waits in queues.

    Args:
        engine: where it is kept.
        clock: for expiry and locks.
        randomness: for lock tokens.
        bus: tells every node that something became available.

    Attributes:
        cloud_to_device: messages for devices and modules.
        feedback: how they ended, for back ends.
        file_notifications: what devices uploaded, for back ends.
        file_notifier: writes the latter.
    """

    def __init__(self, engine: Engine, clock: Clock, randomness: Randomness, bus: Bus) -> None:
        records = FeedbackRecords(clock)
        self._queues = Queues(engine, clock, randomness, bus, records)
        self._batches = FeedbackBatches(engine, clock, self._queues, records)
        self.cloud_to_device = CloudToDevice(engine, clock, self._queues)
        self.feedback = ServiceBound(self._queues, Kind.FEEDBACK)
        self.file_notifications = ServiceBound(self._queues, Kind.FILE_NOTIFICATIONS)
        self.file_notifier = FileNotifier(engine, clock, self._queues)

    async def open(self) -> None:
        """Take up what an earlier run left."""
        await self._batches.open()
        self._queues.open()

    async def run(self) -> None:
        """Do what falls due, for ever. The composition root runs this beside the listeners."""
        await repeat(TICK_S, self.tick, "queues")

    async def tick(self) -> None:
        """Let locks run out, end what is too old, send off feedback."""
        await self._queues.tick()
        await self._batches.tick()

    def close(self) -> None:
        """Hear of nothing more."""
        self._queues.close()
