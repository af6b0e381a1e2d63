"""Faults that are injected on purpose: what one does, to whom, and when it ends.

An operator creates faults to rehearse how a fleet recovers. A device orders one for itself by the
properties of a message, as the published tests of the SDKs do (users.md 3).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, final

from msgspec import Struct

from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DURATION_S: Final = 86_400.0
MAX_DELAY_S: Final = 300.0
MAX_ORDERED_S: Final = 3_600.0
"""Longest delay and duration of a fault that a device orders for itself."""

OPERATION_TYPE: Final = "AzIoTHub_FaultOperationType"
_DELAY: Final = "AzIoTHub_FaultOperationDelayInSecs"
_DURATION: Final = "AzIoTHub_FaultOperationDurationInSecs"
_REASON: Final = "AzIoTHub_FaultOperationCloseReason"


class FaultKind(enum.StrEnum):
    """What a fault does.

    No kind loses what was acknowledged: a message that is dropped is never acknowledged.
    """

    REFUSE = "refuse"
    """Connections are ended and not taken, calls are answered with an error."""
    DELAY = "delay"
    """Acknowledgements and answers come later."""
    THROTTLE = "throttle"
    """Answers say that there was too much of it."""
    DROP = "drop"
    """Messages are taken, and the connection ends before they are acknowledged."""
    RESET = "reset"
    """The connection ends without a word."""


class FaultError(enum.StrEnum):
    """What those are told who are refused or throttled."""

    UNAVAILABLE = "unavailable"
    UNAUTHORIZED = "unauthorized"
    THROTTLED = "throttled"
    QUOTA_EXCEEDED = "quota-exceeded"


class FaultTransport(enum.StrEnum):
    """The protocol a fault is confined to."""

    ANY = "any"
    MQTT = "mqtt"
    HTTPS = "https"
    AMQP = "amqp"


class FaultPart(enum.StrEnum):
    """The part of an AMQP connection that a fault ends, and nothing else."""

    CONNECTION = "connection"
    SHUTDOWN = "shutdown"
    """The connection, in good order."""
    SESSION = "session"
    CBS_REQUEST = "cbs-request"
    CBS_ANSWER = "cbs-answer"
    TELEMETRY = "telemetry"
    DEVICEBOUND = "devicebound"
    TWIN_REQUEST = "twin-request"
    TWIN_ANSWER = "twin-answer"
    METHOD_REQUEST = "method-request"
    METHOD_ANSWER = "method-answer"


_ABOVE_LINKS: Final = (FaultPart.CONNECTION, FaultPart.SHUTDOWN, FaultPart.SESSION)


ERRORS: Final = {
    FaultKind.REFUSE: (FaultError.UNAVAILABLE, FaultError.UNAUTHORIZED),
    FaultKind.THROTTLE: (FaultError.THROTTLED, FaultError.QUOTA_EXCEEDED),
}
"""Errors by the kinds that have one; the first is the usual one."""


@final
class Fault(Struct, frozen=True, kw_only=True):
    """A fault.

    Attributes:
        id: unlike any other's.
        kind: what it does.
        error: what those are told whom it refuses or throttles; `None` for other kinds.
        transport: the protocol it is confined to.
        part: the part of AMQP it is confined to; `None` for all there is.
        device_ids: whom it concerns, their modules included.
        prefix: whose IDs begin like this; empty for nobody.
        target_condition: whose twins it is true of; empty for nobody.
        probability: of every connect, call or batch of messages to meet it, above 0, to 1.
        delay_s: how much later answers come.
        created_at: unix seconds.
        expires_at: unix seconds.
        ordered: what a device called it that ordered it for itself; empty when an operator did.
    """

    id: str
    kind: FaultKind
    error: FaultError | None = None
    transport: FaultTransport = FaultTransport.ANY
    part: FaultPart | None = None
    device_ids: frozenset[str] = frozenset()
    prefix: str = ""
    target_condition: str = ""
    probability: float = 1.0
    delay_s: float = 0.0
    created_at: float
    expires_at: float
    ordered: str = ""

    def names(self, device_id: str) -> bool:
        """Tell whether it concerns a device by its ID."""
        return device_id in self.device_ids or bool(
            self.prefix and device_id.startswith(self.prefix)
        )

    def touches(self, transport: FaultTransport, part: FaultPart | None = None) -> bool:
        """Tell whether it concerns what is done over a protocol.

        Args:
            transport: the protocol.
            part: the link that is being attached; `None` for anything else.
        """
        if self.transport not in (FaultTransport.ANY, transport):
            return False
        if self.part is None:
            return True
        return part is not None and (self.part is part or self.part in _ABOVE_LINKS)

    @property
    def ends_connections(self) -> bool:
        """Whether connections that are there end when it begins."""
        return self.kind in (FaultKind.REFUSE, FaultKind.RESET)

    @property
    def reason(self) -> str:
        """Why a connection ends, for logs."""
        return f"injected fault: {self.kind}"


class OrderedFault(NamedTuple):
    """What a type of `AzIoTHub_FaultOperationType` does."""

    kind: FaultKind
    error: FaultError | None = None
    transport: FaultTransport = FaultTransport.ANY
    part: FaultPart | None = None


def _amqp(part: FaultPart) -> OrderedFault:
    return OrderedFault(FaultKind.REFUSE, FaultError.UNAVAILABLE, FaultTransport.AMQP, part)


ORDERED: Final = {
    "KillTcp": OrderedFault(FaultKind.RESET),
    "ShutDownMqtt": OrderedFault(
        FaultKind.REFUSE, FaultError.UNAVAILABLE, transport=FaultTransport.MQTT
    ),
    "ShutDownAmqp": _amqp(FaultPart.SHUTDOWN),
    "KillAmqpConnection": _amqp(FaultPart.CONNECTION),
    "KillAmqpSession": _amqp(FaultPart.SESSION),
    "KillAmqpCBSLinkReq": _amqp(FaultPart.CBS_REQUEST),
    "KillAmqpCBSLinkResp": _amqp(FaultPart.CBS_ANSWER),
    "KillAmqpD2CLink": _amqp(FaultPart.TELEMETRY),
    "KillAmqpC2DLink": _amqp(FaultPart.DEVICEBOUND),
    "KillAmqpTwinLinkReq": _amqp(FaultPart.TWIN_REQUEST),
    "KillAmqpTwinLinkResp": _amqp(FaultPart.TWIN_ANSWER),
    "KillAmqpMethodReqLink": _amqp(FaultPart.METHOD_REQUEST),
    "KillAmqpMethodRespLink": _amqp(FaultPart.METHOD_ANSWER),
    "InvokeThrottling": OrderedFault(FaultKind.THROTTLE, FaultError.THROTTLED),
    "InvokeMaxMessageQuota": OrderedFault(FaultKind.THROTTLE, FaultError.QUOTA_EXCEEDED),
    "InvokeAuthError": OrderedFault(FaultKind.REFUSE, FaultError.UNAUTHORIZED),
}
"""Types of faults that devices can order (users.md 3)."""


class Order(NamedTuple):
    """A fault that a device orders for itself by a message.

    Attributes:
        type: a key of `ORDERED`.
        reason: why, in the device's words.
        delay_s: when it begins.
        duration_s: how long it lasts; with 0 it happens once.
    """

    type: str
    reason: str
    delay_s: float
    duration_s: float


def order_in(properties: Iterable[tuple[str, str | None]]) -> Order | None:
    """Return what the properties of a message order, `None` for nothing that is known.

    Numbers that cannot be read are 0.
    """
    found = {name: value or "" for name, value in properties}
    kind = found.get(OPERATION_TYPE, "")
    if kind not in ORDERED:
        return None
    return Order(
        kind, found.get(_REASON, "")[:128], _seconds(found, _DELAY), _seconds(found, _DURATION)
    )


def check(fault: Fault) -> None:
    """Check what an operator asks for.

    Raises:
        InvalidArgumentError: code `invalid-fault`.
    """
    # Written so that a number that is none is refused as well.
    if not 0 < fault.expires_at - fault.created_at <= MAX_DURATION_S:
        raise _invalid(f"A fault lasts up to {MAX_DURATION_S:g} seconds.")
    if not 0 < fault.probability <= 1:
        raise _invalid("The probability of a fault is above 0, and 1 at most.")
    if fault.kind is FaultKind.DELAY and not 0 < fault.delay_s <= MAX_DELAY_S:
        raise _invalid(f"A delay is up to {MAX_DELAY_S:g} seconds.")
    if fault.kind is not FaultKind.DELAY and fault.delay_s:
        raise _invalid(f"A fault of the kind {fault.kind} has no delay.")
    if fault.error is not None and fault.error not in ERRORS.get(fault.kind, ()):
        raise _invalid(f"A fault of the kind {fault.kind} has no error {fault.error}.")
    ways = [bool(fault.device_ids), bool(fault.prefix), bool(fault.target_condition.strip())]
    if sum(ways) != 1:
        raise _invalid("A fault names devices, a prefix of their IDs, or a target condition.")


def _seconds(found: dict[str, str], name: str) -> float:
    text = found.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        return 0.0
    return min(float(text), MAX_ORDERED_S)


def _invalid(text: str) -> InvalidArgumentError:
    return InvalidArgumentError(text, code="invalid-fault")
