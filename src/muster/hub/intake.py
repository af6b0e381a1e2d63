"""Where the messages of a hub come in: to which of its logs each of them is written.

A hub without routes of its own writes everything to the log of the built-in endpoint, as it came:
`append` is the log's own then. Otherwise each message is read, its routes are asked, and it is
written where they say; it is acknowledged when it is durable everywhere it goes. Messages of a
partition stay in their order, also while one of them waits for the twin of its sender.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

import structlog

from muster.errors import MusterError
from muster.hub import message_properties
from muster.language import routes
from muster.model import message as messages
from muster.model.identity import IdentityRef, wire_time
from muster.model.message import BUILT_IN
from muster.model.routing import SOURCES
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.hub.routing_table import RoutingTable
    from muster.hub.sender_twins import SenderTwins
    from muster.hub.telemetry import EventLog
    from muster.model.message import Message

_CONDITION_NAMES: Final = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "message-id": "messageId",
    "correlation-id": "correlationId",
    "user-id": "userId",
    "to": "to",
    "dt-subject": "dt-subject",
    "iothub-interface-id": "iothub-interface-id",
    "iothub-creation-time-utc": "iothub-creation-time-utc",
}
"""System properties as conditions name them (hub-service.md 7)."""

_log = structlog.get_logger(__name__)

Appended = asyncio.Future[Any]
"""Done when what was appended would survive a power cut."""


@final
class Intake:
    """Where the messages of one hub come in.

    Args:
        hub: its number.
        log: of the built-in endpoint.
        twins: of senders.
        partitions: of both logs.
        clock: for `$enqueuedTime`.

    Attributes:
        append: takes a partition and records of one device in it, as `EventLog.append` does.
        unrouted: counts messages that no route took.
    """

    __slots__ = (
        "_clock",
        "_hub",
        "_lines",
        "_log",
        "_routed",
        "_table",
        "_twins",
        "append",
        "unrouted",
    )

    def __init__(
        self, hub: int, log: EventLog, twins: SenderTwins, partitions: int, clock: Clock
    ) -> None:
        self._hub = hub
        self._log = log
        self._routed: EventLog | None = None
        self._table: RoutingTable | None = None
        self._twins = twins
        self._clock = clock
        self._lines: list[deque[tuple[list[bytes], Appended]]] = [
            deque() for _ in range(partitions)
        ]
        self.append: Callable[[int, list[bytes]], Appended] = log.append
        self.unrouted = 0

    def use(self, table: RoutingTable, routed: EventLog | None) -> None:
        """Follow these routes from now on.

        Args:
            table: the routes.
            routed: the log of what goes to endpoints that are not built in; may be `None` where
                the table has no such endpoint.
        """
        self._table = table
        self._routed = routed
        self.append = self._route
        self._shortcut()

    def takes(self, source: str) -> bool:
        """Tell whether messages of a source, a value of `iothub-message-source`, go anywhere."""
        table = self._table
        return table is not None and SOURCES[source] in table.sources

    async def close(self) -> None:
        """Finish what waits."""
        while any(self._lines):
            waiting = [future for line in self._lines for _, future in line]
            await asyncio.wait(waiting)

    def _shortcut(self) -> None:
        """Leave the way to the log open where there is nothing to do on it."""
        if self._table is not None and self._table.plain and not any(self._lines):
            self.append = self._log.append

    def _route(self, partition: int, records: list[bytes]) -> Appended:
        line = self._lines[partition]
        found = [messages.decode(record) for record in records]
        if not line and not self._unknown(found):
            return self._store(partition, records, found)
        future: Appended = asyncio.get_running_loop().create_future()
        line.append((records, future))
        if len(line) == 1:
            spawn(self._work(partition), "message routing")
        return future

    async def _work(self, partition: int) -> None:
        """Serve the line of a partition until it is empty."""
        line = self._lines[partition]
        while line:
            records, future = line[0]
            try:
                found = [messages.decode(record) for record in records]
                while unknown := self._unknown(found):
                    await self._twins.load(unknown)
                stored = self._store(partition, records, found)
            except MusterError as error:
                _refuse(future, error)
            except Exception as error:  # noqa: BLE001 - those behind it must not wait for ever
                _log.exception("message not routed", partition=partition)
                _refuse(future, error)
            else:
                _follow(stored, future)
            finally:
                line.popleft()
        self._shortcut()

    def _unknown(self, found: list[Message]) -> IdentityRef | None:
        """Return the first sender whose twin is needed and not known."""
        table = self._table
        if table is None or not table.needs_twin:
            return None
        for message in found:
            if SOURCES[message.stamp.source] in table.needs_twin:
                ref = self._sender(message)
                if not self._twins.knows(ref):
                    return ref
        return None

    def _store(self, partition: int, records: list[bytes], found: list[Message]) -> Appended:
        table = self._table
        if table is None:
            return self._log.append(partition, records)
        for_log: list[bytes] = []
        for_routed: list[bytes] = []
        for record, message in zip(records, found, strict=True):
            source = SOURCES[message.stamp.source]
            twin = self._twins.get(self._sender(message)) if source in table.needs_twin else None
            deliveries = table.decide(source, self._asked(message, twin))
            built_in = tuple(each for each in deliveries if each.endpoint == BUILT_IN)
            others = tuple(each for each in deliveries if each.endpoint != BUILT_IN)
            if built_in:
                for_log.append(messages.routed(record, message, built_in))
            if others:
                for_routed.append(messages.routed(record, message, others))
            if not deliveries:
                self.unrouted += 1
        if for_routed and self._routed is not None:
            routed = self._routed.append(partition, for_routed)
            if not for_log:
                return routed
            return _both(self._log.append(partition, for_log), routed)
        # Also when there is nothing to write: it is done in its turn.
        return self._log.append(partition, for_log)

    def _sender(self, message: Message) -> IdentityRef:
        return IdentityRef(self._hub, message.stamp.device_id, message.stamp.module_id)

    def _asked(self, message: Message, twin: dict[str, Any] | None) -> routes.Message:
        return asked(message, self._clock.time(), twin)


def asked(message: Message, enqueued_at: float, twin: dict[str, Any] | None) -> routes.Message:
    """Return a message as conditions of routes see it.

    Args:
        message: as it is stored.
        enqueued_at: when it arrived, unix seconds.
        twin: of its sender; `None` when there is none or nobody asks for it.
    """
    found = message_properties.read(message)
    stamp = message.stamp
    system = {"connectionDeviceId": stamp.device_id, "enqueuedTime": wire_time(enqueued_at)}
    if stamp.module_id:
        system["connectionModuleId"] = stamp.module_id
    if stamp.model_id:
        system["dt-dataschema"] = stamp.model_id
    for name, value in found.system.items():
        known = _CONDITION_NAMES.get(name)
        if known is not None and value is not None:
            system[known] = value
    return routes.Message(found.application, system, message.body, twin)


def _refuse(future: Appended, error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _follow(stored: Appended, future: Appended) -> None:
    """End a future as another one ends."""

    def end(done: Appended) -> None:
        if future.done():
            return
        if done.cancelled():
            future.cancel()
        elif (error := done.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())

    stored.add_done_callback(end)


def _both(first: Appended, second: Appended) -> Appended:
    """Return a future that is done when both are, and fails when one does."""
    future: Appended = asyncio.get_running_loop().create_future()

    def end(_: Appended) -> None:
        if future.done() or not (first.done() and second.done()):
            return
        if first.cancelled() or second.cancelled():
            future.cancel()
        elif (error := first.exception() or second.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(first.result())

    first.add_done_callback(end)
    second.add_done_callback(end)
    return future
