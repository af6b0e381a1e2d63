"""Faults that last: whom they concern, how often they are met, and what of that is on record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec.structs import replace

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
from muster.model.decision import Decision
from muster.model.fault import Fault, FaultError, FaultKind
from muster.model.identity import wire_time

if TYPE_CHECKING:
    from collections.abc import Hashable

    from muster.clock import Clock
    from muster.ids import Randomness
    from muster.language.conditions import Condition

MAX_FAULTS: Final = 100
"""Faults of one hub, or of provisioning, that operators have created."""

RETRY_AFTER_S: Final = 5
"""What those are told whom a fault throttles."""

_RECORD_EVERY_S: Final = 1.0
"""Seconds between two records of one fault's injections for one identity."""
_CHANCES: Final = 1 << 32

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
        self._recorded: dict[Hashable, tuple[float, int]] = {}

    def over(self, now: float) -> bool:
        """Tell whether it has ended; steady seconds."""
        return now >= self._ends

    def concerns(self, device_id: str) -> bool:
        """Tell whether it concerns a device."""
        return device_id in self.chosen or self.fault.names(device_id)

    def met(self, randomness: Randomness) -> bool:
        """Tell whether whom it concerns meets it this time, by its probability."""
        if self.fault.probability >= 1:
            return True
        chance = int.from_bytes(randomness.token_bytes(4))
        return chance < self.fault.probability * _CHANCES

    def count(self, who: Hashable, now: float) -> int:
        """Count an injection; return how many are to be put on record, 0 for not now."""
        self.injected += 1
        recorded_at, left_out = self._recorded.get(who, (float("-inf"), 0))
        if now - recorded_at < _RECORD_EVERY_S:
            self._recorded[who] = (recorded_at, left_out + 1)
            return 0
        self._recorded[who] = (now, 0)
        return left_out + 1

    def decision(  # noqa: PLR0917 - one row of the log
        self, service: str, place: str, subject: str, times: int, clock: Clock, tracking_id: str
    ) -> Decision:
        """Return what the log is told of injections.

        Args:
            service: whose fault it is.
            place: the options by which `muster fault` finds it there.
            subject: who met it.
            times: how often since the last record.
            clock: for the time.
            tracking_id: of the record.
        """
        fault = self.fault
        return Decision(
            tracking_id=tracking_id,
            time=clock.now(),
            service=service,
            operation="fault",
            subject=subject,
            outcome=_OUTCOMES[fault.kind],
            check="fault-injected",
            facts={
                "fault": fault.id,
                "kind": fault.kind.value,
                "error": fault.error,
                "by": f"the device itself: {fault.ordered}" if fault.ordered else "an operator",
                "until": wire_time(fault.expires_at),
                "times": times,
                "place": place,
            },
        )


@final
class CreatedFaults:
    """The faults that operators have created in one place, the oldest first.

    Args:
        clock: for their ends.
    """

    __slots__ = ("_clock", "_faults")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._faults: dict[str, LiveFault] = {}

    def all(self) -> list[LiveFault]:
        """Return those that have not ended."""
        now = self._clock.monotonic()
        self._faults = {key: live for key, live in self._faults.items() if not live.over(now)}
        return list(self._faults.values())

    def add(self, live: LiveFault) -> None:
        """Let a fault begin.

        Raises:
            ConflictError: there are too many; code `too-many-faults`.
        """
        if len(self.all()) >= MAX_FAULTS:
            raise ConflictError(f"There are {MAX_FAULTS} faults at most.", code="too-many-faults")
        self._faults[live.fault.id] = live

    def remove(self, fault_id: str) -> None:
        """End a fault; harmless if it is not here."""
        self._faults.pop(fault_id, None)


def begun(wanted: Fault, clock: Clock, randomness: Randomness) -> Fault:
    """Return a fault that begins now, as it was asked for.

    Args:
        wanted: what is to happen; it gets an ID here, and its times are moved.
        clock: for its times.
        randomness: for its ID.

    Raises:
        InvalidArgumentError: code `invalid-fault`.
    """
    now = clock.time()
    fault = replace(
        wanted,
        id=randomness.uuid(),
        error=wanted.error or faults.ERRORS.get(wanted.kind, (None,))[0],
        created_at=now,
        expires_at=now + wanted.expires_at - wanted.created_at,
    )
    faults.check(fault)
    return fault


def find(lives: list[LiveFault], fault_id: str) -> LiveFault:
    """Return the fault with an ID.

    Raises:
        NotFoundError: code `fault-not-found`.
    """
    for live in lives:
        if live.fault.id == fault_id:
            return live
    raise NotFoundError(f"There is no fault '{fault_id[:64]}'.", code="fault-not-found")


def failure(fault: Fault) -> MusterError:
    """Return what those are told whom a fault refuses or throttles."""
    match fault.error:
        case FaultError.UNAUTHORIZED:
            return UnauthorizedError("Unauthorized", code="fault-injected")
        case FaultError.THROTTLED:
            return ThrottledError(
                "Too many requests.", retry_after_s=RETRY_AFTER_S, code="fault-injected"
            )
        case FaultError.QUOTA_EXCEEDED:
            return ForbiddenError("The quota of messages is used up.", code="quota-exceeded")
        case _:
            return UnavailableError("The service is not available.", code="fault-injected")
