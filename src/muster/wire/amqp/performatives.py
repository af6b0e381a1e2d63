"""What a frame can say: the performatives, and the composites in their fields.

Texts that the standard calls symbols are plain `str` here; which fields are symbols is known by
`bodies`. Maps hold typed values (see `types`). Null is `None`, unless the standard gives it a
meaning; that is then the default.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, final

from muster.wire.amqp.types import Described, Value

if TYPE_CHECKING:
    Map: TypeAlias = dict[Value, Value]

CLIENT_SENDS: Final = False
"""`Attach.role` of an end that sends (2.8.1)."""
CLIENT_RECEIVES: Final = True
"""`Attach.role` of an end that receives."""


@final
@dataclass(slots=True)
class Error:
    """Why something was closed, ended, detached or rejected (2.8.14).

    Attributes:
        condition: such as `amqp:not-found`.
        description: text for people.
        info: more about it, keys symbols.
    """

    condition: str
    description: str | None = None
    info: Map | None = None


@final
@dataclass(slots=True)
class Received:
    """Outcome to be: how much of a message has arrived (3.4.1)."""

    section_number: int = 0
    section_offset: int = 0


@final
@dataclass(slots=True)
class Accepted:
    """Outcome: the message was taken (3.4.2)."""


@final
@dataclass(slots=True)
class Rejected:
    """Outcome: the message is not valid (3.4.3)."""

    error: Error | None = None


@final
@dataclass(slots=True)
class Released:
    """Outcome: the message was not taken and may go elsewhere (3.4.4)."""


@final
@dataclass(slots=True)
class Modified:
    """Outcome: the message was not taken and is to be changed (3.4.5)."""

    delivery_failed: bool = False
    undeliverable_here: bool = False
    message_annotations: Map | None = None


DeliveryState: TypeAlias = Accepted | Rejected | Released | Modified | Received | Described
"""`Described` for states of extensions, such as transactions."""


@final
@dataclass(slots=True)
class Source:
    """Where messages come from (3.5.3).

    Attributes:
        address: a string from every client known.
        filter: by name; values are usually `Described`.
        default_outcome: a delivery state, as it came.
    """

    address: Value = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Map | None = None
    distribution_mode: str | None = None
    filter: Map | None = None
    default_outcome: Value = None
    outcomes: list[str] | None = None
    capabilities: list[str] | None = None


@final
@dataclass(slots=True)
class Target:
    """Where messages go (3.5.4)."""

    address: Value = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: Map | None = None
    capabilities: list[str] | None = None


@final
@dataclass(slots=True)
class Open:
    """Opens a connection (2.7.1).

    Attributes:
        max_frame_size: bytes of the largest frame that the sender of this takes.
        channel_max: its highest channel number.
        idle_time_out: milliseconds of silence after which it gives up; None for never.
    """

    container_id: str
    hostname: str | None = None
    max_frame_size: int = 0xFFFF_FFFF
    channel_max: int = 0xFFFF
    idle_time_out: int | None = None
    outgoing_locales: list[str] | None = None
    incoming_locales: list[str] | None = None
    offered_capabilities: list[str] | None = None
    desired_capabilities: list[str] | None = None
    properties: Map | None = None


@final
@dataclass(slots=True)
class Begin:
    """Begins a session (2.7.2)."""

    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    remote_channel: int | None = None
    handle_max: int = 0xFFFF_FFFF
    offered_capabilities: list[str] | None = None
    desired_capabilities: list[str] | None = None
    properties: Map | None = None


@final
@dataclass(slots=True)
class Attach:
    """Attaches a link (2.7.3).

    Attributes:
        role: `CLIENT_SENDS` or `CLIENT_RECEIVES`, as the sender of this sees itself.
        snd_settle_mode: 0 unsettled, 1 settled, 2 mixed.
        rcv_settle_mode: 0 first, 1 second.
        source: a `Source`, or as it came.
        target: a `Target`, or as it came where it is something else, such as a coordinator.
    """

    name: str
    handle: int
    role: bool
    snd_settle_mode: int = 2
    rcv_settle_mode: int = 0
    source: Value = None
    target: Value = None
    unsettled: Map | None = None
    incomplete_unsettled: bool = False
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: list[str] | None = None
    desired_capabilities: list[str] | None = None
    properties: Map | None = None


@final
@dataclass(slots=True)
class Flow:
    """Updates the flow of a session and, with a handle, of a link (2.7.4)."""

    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    next_incoming_id: int | None = None
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool = False
    echo: bool = False
    properties: Map | None = None


@final
@dataclass(slots=True)
class Transfer:
    """Transfers a message or a part of one (2.7.5). The payload follows it in the frame."""

    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool = False
    rcv_settle_mode: int | None = None
    state: DeliveryState | None = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


@final
@dataclass(slots=True)
class Disposition:
    """Tells of deliveries `first` to `last` (2.7.6); `role` is that of who says it."""

    role: bool
    first: int
    last: int | None = None
    settled: bool = False
    state: DeliveryState | None = None
    batchable: bool = False


@final
@dataclass(slots=True)
class Detach:
    """Detaches a link, for good if `closed` (2.7.7)."""

    handle: int
    closed: bool = False
    error: Error | None = None


@final
@dataclass(slots=True)
class End:
    """Ends a session (2.7.8)."""

    error: Error | None = None


@final
@dataclass(slots=True)
class Close:
    """Closes a connection (2.7.9)."""

    error: Error | None = None


@final
@dataclass(slots=True)
class SaslMechanisms:
    """The server's first word (5.3.3.1)."""

    sasl_server_mechanisms: list[str]


@final
@dataclass(slots=True)
class SaslInit:
    """The client's choice (5.3.3.2)."""

    mechanism: str
    initial_response: bytes | None = field(default=None, repr=False)
    hostname: str | None = None


@final
@dataclass(slots=True)
class SaslChallenge:
    """A question of the server (5.3.3.3)."""

    challenge: bytes = field(repr=False)


@final
@dataclass(slots=True)
class SaslResponse:
    """The client's answer (5.3.3.4)."""

    response: bytes = field(repr=False)


@final
@dataclass(slots=True)
class SaslOutcome:
    """The server's verdict (5.3.3.5): 0 welcome, 1 not authenticated, 2 to 4 other failures."""

    code: int
    additional_data: bytes | None = None


Performative: TypeAlias = (
    Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close
)
SaslFrame: TypeAlias = SaslMechanisms | SaslInit | SaslChallenge | SaslResponse | SaslOutcome
