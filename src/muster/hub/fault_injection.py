"""Who meets which injected fault: what transports ask before they act.

They ask at few points (`HubFaults.choose`) and do what the fault says in their own way. Every
injection is counted, and on record as what it is, so that nobody looks for a cause in vain. No
fault loses what was acknowledged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.errors import (
    ConflictError,
    ForbiddenError,
    MusterError,
    NotFoundError,
    ThrottledError,
    UnauthorizedError,
    UnavailableError,
)
from muster.model import fault as faults
from muster.model import message as messages
from muster.model.decision import Decision
from muster.model.fault import Fault, FaultError, FaultKind
from muster.model.identity import wire_time
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from muster.clock import Clock
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub
    from muster.ids import Randomness
    from muster.language.conditions import Condition
    from muster.model.fault import FaultPart, FaultTransport, Order
    from muster.model.identity import IdentityRef

MAX_FAULTS: Final = 100
"""Faults of one hub that operators have created."""
MAX_ORDERS: Final = 10_000
"""Faults of one hub that devices have ordered."""

RETRY_AFTER_S: Final = 5
"""What those are told whom a fault throttles."""

_LEAST_DELAY_S: Final = 0.1
"""The acknowledgement of a message that orders a fault leaves before the fault begins; without it
the device would send the message again, and meet the fault for ever."""
_RECORD_EVERY_S: Final = 1.0
"""Seconds between two records of one fault's injections for one identity."""
AT_ONCE: Final = 200
"""Devices that are looked at together."""
_CHANCES: Final = 1 << 32

_OPERATION: Final = faults.OPERATION_TYPE.encode()
_OUTCOMES: Final = {
    FaultKind.REFUSE: "refused",
    FaultKind.DELAY: "delayed",
    FaultKind.THROTTLE: "throttled",
    FaultKind.DROP: "dropped",
    FaultKind.RESET: "reset",
}


@final
class LiveFault:
    """A fault, and what has become of it.

    Attributes:
        fault: what it is.
        condition: its target condition, parsed.
        chosen: devices the condition is true of.
        injected: how often it has been met.
    """

    __slots__ = ("_ends", "_recorded", "chosen", "condition", "fault", "injected")

    def __init__(self, fault: Fault, ends: float, condition: Condition | None = None) -> None:
        self.fault = fault
        self.condition = condition
        self.chosen: set[str] = set()
        self.injected = 0
        self._ends = ends
        # When an injection was last put on record for somebody, and how many were not since.
        self._recorded: dict[IdentityRef, tuple[float, int]] = {}

    def over(self, now: float) -> bool:
        """Tell whether it has ended; steady seconds."""
        return now >= self._ends

    def concerns(self, device_id: str) -> bool:
        """Tell whether it concerns a device."""
        return device_id in self.chosen or self.fault.names(device_id)

    def count(self, ref: IdentityRef, now: float) -> int:
        """Count an injection; return how many are to be put on record, 0 for not now."""
        self.injected += 1
        recorded_at, left_out = self._recorded.get(ref, (float("-inf"), 0))
        if now - recorded_at < _RECORD_EVERY_S:
            self._recorded[ref] = (recorded_at, left_out + 1)
            return 0
        self._recorded[ref] = (now, 0)
        return left_out + 1


@final
class HubFaults:
    """The faults of a hub for which fault injection is on; `Hub.faults`.

    Args:
        hub: whose they are.
        clock: for their ends.
        randomness: for probabilities.
        connections: who is connected.
        record: puts an injection on record.
        count: counts an injection, by its kind.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        clock: Clock,
        randomness: Randomness,
        connections: Connections,
        record: Callable[[Decision], None],
        count: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._randomness = randomness
        self._connections = connections
        self._record = record
        self._count = count
        self._created: dict[str, LiveFault] = {}
        self._ordered: dict[IdentityRef, LiveFault] = {}
        self._waiting: set[asyncio.TimerHandle] = set()

    # -- what transports ask -------------------------------------------------------------------

    def choose(
        self,
        ref: IdentityRef,
        kinds: Collection[FaultKind],
        transport: FaultTransport,
        part: FaultPart | None = None,
    ) -> Fault | None:
        """Return the fault that somebody meets now, which is then on record.

        Called for every connect, call or batch of messages, not for every message.

        Args:
            ref: who.
            kinds: what can be done at this point.
            transport: over which protocol.
            part: the link that is being attached; `None` for anything else.
        """
        now = self._clock.monotonic()
        ordered = self._ordered.get(ref)
        for live in (ordered, *self._created.values()) if ordered else self._created.values():
            fault = live.fault
            if (
                fault.kind in kinds
                and fault.touches(transport, part)
                and live.concerns(ref.device_id)
                and not live.over(now)
                and self._met(fault)
            ):
                self._note(live, ref)
                return fault
        return None

    def check(
        self, ref: IdentityRef, kinds: Collection[FaultKind], transport: FaultTransport
    ) -> None:
        """Like `choose`, for points at which nothing can be done but to fail.

        Raises:
            MusterError: see `failure`.
        """
        fault = self.choose(ref, kinds, transport)
        if fault is not None:
            raise failure(fault)

    def when_stored(
        self, ref: IdentityRef, records: Sequence[bytes], stored: asyncio.Future[list[int]]
    ) -> None:
        """Like `look_at`, as soon as the messages are durable.

        Call it after whoever acknowledges them has asked to be told of that.
        """

        def look(future: asyncio.Future[list[int]]) -> None:
            if not future.cancelled() and future.exception() is None:
                self.look_at(ref, records)

        stored.add_done_callback(look)

    def look_at(self, ref: IdentityRef, records: Iterable[bytes]) -> None:
        """Find out whether messages that were stored order a fault for who sent them."""
        for record in records:
            if _OPERATION not in record:
                continue
            order = faults.order_in(property_bag.decode(messages.decode(record).bag))
            if order is not None and len(self._waiting) < MAX_ORDERS:
                self._schedule(ref, order)

    # -- what operators ask --------------------------------------------------------------------

    def all(self) -> list[LiveFault]:
        """Return all faults that have not ended, the oldest first."""
        self._forget_ended()
        return [*self._created.values(), *self._ordered.values()]

    def find(self, fault_id: str) -> LiveFault:
        """Return a fault.

        Raises:
            NotFoundError: code `fault-not-found`.
        """
        for live in self.all():
            if live.fault.id == fault_id:
                return live
        raise NotFoundError(f"There is no fault '{fault_id[:64]}'.", code="fault-not-found")

    def add(self, live: LiveFault) -> None:
        """Let a fault begin.

        Raises:
            ConflictError: there are too many; code `too-many-faults`.
        """
        self._forget_ended()
        if len(self._created) >= MAX_FAULTS:
            raise ConflictError(f"A hub has {MAX_FAULTS} faults at most.", code="too-many-faults")
        self._created[live.fault.id] = live

    def delete(self, fault_id: str) -> None:
        """End a fault. Raises like `find`."""
        live = self.find(fault_id)
        self._created.pop(fault_id, None)
        for ref in [ref for ref, each in self._ordered.items() if each is live]:
            del self._ordered[ref]

    def conditional(self) -> list[LiveFault]:
        """Return the faults that have a target condition."""
        return [live for live in self.all() if live.condition is not None]

    async def begin(self, live: LiveFault, device_ids: Iterable[str] | None = None) -> None:
        """End the connections that are there, if the fault is of a kind that does.

        Args:
            live: the fault.
            device_ids: of these only.
        """
        if not live.fault.ends_connections:
            return
        if device_ids is None:
            device_ids = list(self._connections.device_ids(self._hub.id))
        for number, device_id in enumerate(device_ids):
            if live.concerns(device_id):
                for connection in self._connections.of_device(self._hub.id, device_id):
                    if self._met(live.fault) and connection.link.fault_began(live.fault):
                        self._note(live, connection.ref)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Fault injection is switched off: nothing that was ordered begins any more."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

    # -- inside --------------------------------------------------------------------------------

    def _met(self, fault: Fault) -> bool:
        if fault.probability >= 1:
            return True
        chance = int.from_bytes(self._randomness.token_bytes(4))
        return chance < fault.probability * _CHANCES

    def _note(self, live: LiveFault, ref: IdentityRef) -> None:
        fault = live.fault
        self._count(fault.kind)
        times = live.count(ref, self._clock.monotonic())
        if not times:
            return
        self._record(
            Decision(
                tracking_id=self._randomness.uuid(),
                time=self._clock.now(),
                service=self._hub.host,
                operation="fault",
                subject=ref.text,
                outcome=_OUTCOMES[fault.kind],
                check="fault-injected",
                facts={
                    "fault": fault.id,
                    "kind": fault.kind.value,
                    "error": fault.error,
                    "by": f"the device itself: {fault.ordered}" if fault.ordered else "an operator",
                    "until": wire_time(fault.expires_at),
                    "times": times,
                },
            )
        )

    def _schedule(self, ref: IdentityRef, order: Order) -> None:
        def begin() -> None:
            self._waiting.discard(handle)
            self._carry_out(ref, order)

        delay_s = max(order.delay_s, _LEAST_DELAY_S)
        handle = asyncio.get_running_loop().call_later(delay_s, begin)
        self._waiting.add(handle)

    def _carry_out(self, ref: IdentityRef, order: Order) -> None:
        kind, error, transport, part = faults.ORDERED[order.type]
        now = self._clock.time()
        text = f"{order.type} ({order.reason})" if order.reason else order.type
        fault = Fault(
            id=self._randomness.uuid(),
            kind=kind,
            error=error,
            transport=transport,
            part=part,
            device_ids=frozenset({ref.device_id}),
            created_at=now,
            expires_at=now + order.duration_s,
            ordered=text,
        )
        live = LiveFault(fault, self._clock.monotonic() + order.duration_s)
        self._forget_ended()
        if order.duration_s and len(self._ordered) < MAX_ORDERS:
            self._ordered[ref] = live
        connection = self._connections.get(ref)
        if connection is None or not fault.ends_connections:
            return
        if connection.link.fault_began(fault):
            self._note(live, ref)

    def _forget_ended(self) -> None:
        now = self._clock.monotonic()
        self._created = {key: live for key, live in self._created.items() if not live.over(now)}
        self._ordered = {ref: live for ref, live in self._ordered.items() if not live.over(now)}


def failure(fault: Fault) -> MusterError:
    """Return what those are told whom a fault refuses or throttles."""
    match fault.error:
        case FaultError.UNAUTHORIZED:
            return UnauthorizedError("Unauthorized", code="fault-injected")
        case FaultError.THROTTLED:
            return ThrottledError("Too many requests.", retry_after_s=RETRY_AFTER_S)
        case FaultError.QUOTA_EXCEEDED:
            return ForbiddenError("The quota of messages is used up.", code="quota-exceeded")
        case _:
            return UnavailableError("The service is not available.", code="fault-injected")
