"""Bodies of frames: performatives between bytes and Python.

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from typing import Any, Final

from muster.wire.amqp import decoder, encoder
from muster.wire.amqp.composites import (
    ANY,
    BINARY,
    BOOLEAN,
    MAP,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    UINT,
    ULONG,
    USHORT,
    Field,
    Kind,
    Layout,
    composite,
)
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    DeliveryState,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Open,
    Performative,
    Received,
    Rejected,
    Released,
    SaslChallenge,
    SaslFrame,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Source,
    Target,
    Transfer,
)
from muster.wire.amqp.types import Described, Value


def _terminus(layout_of: str) -> Kind:
    """Return the kind of a source or target; what is something else stays as it came."""

    def read(value: Value) -> Value:
        layout = LAYOUTS[_BY_NAME[layout_of]]
        try:
            return layout.from_value(value)
        except TypeError:
            return value

    return Kind(read, _encode_any)


def _read_state(value: Value) -> DeliveryState:
    if not isinstance(value, Described):
        raise TypeError
    code = _code_of(value.descriptor)
    if code in _STATES and isinstance(value.value, list):
        state: DeliveryState = LAYOUTS[code].from_list(value.value)
        return state
    return value


def _encode_any(value: object) -> bytes:
    """Return a composite or any other value in bytes."""
    layout = _BY_CLASS.get(type(value))
    return encoder.encode(value) if layout is None else layout.encode(value)


_ERROR: Final = composite(lambda: LAYOUTS[0x1D])
_STATE: Final = Kind(_read_state, _encode_any)

LAYOUTS: Final[dict[int, Layout]] = {
    layout.code: layout
    for layout in (
        Layout(
            0x10,
            "amqp:open:list",
            Open,
            Field("container_id", STRING, required=True),
            Field("hostname", STRING),
            Field("max_frame_size", UINT),
            Field("channel_max", USHORT),
            Field("idle_time_out", UINT),
            Field("outgoing_locales", SYMBOLS),
            Field("incoming_locales", SYMBOLS),
            Field("offered_capabilities", SYMBOLS),
            Field("desired_capabilities", SYMBOLS),
            Field("properties", MAP),
        ),
        Layout(
            0x11,
            "amqp:begin:list",
            Begin,
            Field("remote_channel", USHORT),
            Field("next_outgoing_id", UINT, required=True),
            Field("incoming_window", UINT, required=True),
            Field("outgoing_window", UINT, required=True),
            Field("handle_max", UINT),
            Field("offered_capabilities", SYMBOLS),
            Field("desired_capabilities", SYMBOLS),
            Field("properties", MAP),
        ),
        Layout(
            0x12,
            "amqp:attach:list",
            Attach,
            Field("name", STRING, required=True),
            Field("handle", UINT, required=True),
            Field("role", BOOLEAN, required=True),
            Field("snd_settle_mode", UBYTE),
            Field("rcv_settle_mode", UBYTE),
            Field("source", _terminus("amqp:source:list")),
            Field("target", _terminus("amqp:target:list")),
            Field("unsettled", MAP),
            Field("incomplete_unsettled", BOOLEAN),
            Field("initial_delivery_count", UINT),
            Field("max_message_size", ULONG),
            Field("offered_capabilities", SYMBOLS),
            Field("desired_capabilities", SYMBOLS),
            Field("properties", MAP),
        ),
        Layout(
            0x13,
            "amqp:flow:list",
            Flow,
            Field("next_incoming_id", UINT),
            Field("incoming_window", UINT, required=True),
            Field("next_outgoing_id", UINT, required=True),
            Field("outgoing_window", UINT, required=True),
            Field("handle", UINT),
            Field("delivery_count", UINT),
            Field("link_credit", UINT),
            Field("available", UINT),
            Field("drain", BOOLEAN),
            Field("echo", BOOLEAN),
            Field("properties", MAP),
        ),
        Layout(
            0x14,
            "amqp:transfer:list",
            Transfer,
            Field("handle", UINT, required=True),
            Field("delivery_id", UINT),
            Field("delivery_tag", BINARY),
            Field("message_format", UINT),
            Field("settled", BOOLEAN),
            Field("more", BOOLEAN),
            Field("rcv_settle_mode", UBYTE),
            Field("state", _STATE),
            Field("resume", BOOLEAN),
            Field("aborted", BOOLEAN),
            Field("batchable", BOOLEAN),
        ),
        Layout(
            0x15,
            "amqp:disposition:list",
            Disposition,
            Field("role", BOOLEAN, required=True),
            Field("first", UINT, required=True),
            Field("last", UINT),
            Field("settled", BOOLEAN),
            Field("state", _STATE),
            Field("batchable", BOOLEAN),
        ),
        Layout(
            0x16,
            "amqp:detach:list",
            Detach,
            Field("handle", UINT, required=True),
            Field("closed", BOOLEAN),
            Field("error", _ERROR),
        ),
        Layout(0x17, "amqp:end:list", End, Field("error", _ERROR)),
        Layout(0x18, "amqp:close:list", Close, Field("error", _ERROR)),
        Layout(
            0x1D,
            "amqp:error:list",
            Error,
            Field("condition", SYMBOL, required=True),
            Field("description", STRING),
            Field("info", MAP),
        ),
        Layout(
            0x23,
            "amqp:received:list",
            Received,
            Field("section_number", UINT),
            Field("section_offset", ULONG),
        ),
        Layout(0x24, "amqp:accepted:list", Accepted),
        Layout(0x25, "amqp:rejected:list", Rejected, Field("error", _ERROR)),
        Layout(0x26, "amqp:released:list", Released),
        Layout(
            0x27,
            "amqp:modified:list",
            Modified,
            Field("delivery_failed", BOOLEAN),
            Field("undeliverable_here", BOOLEAN),
            Field("message_annotations", MAP),
        ),
        Layout(
            0x28,
            "amqp:source:list",
            Source,
            Field("address", ANY),
            Field("durable", UINT),
            Field("expiry_policy", SYMBOL),
            Field("timeout", UINT),
            Field("dynamic", BOOLEAN),
            Field("dynamic_node_properties", MAP),
            Field("distribution_mode", SYMBOL),
            Field("filter", MAP),
            Field("default_outcome", ANY),
            Field("outcomes", SYMBOLS),
            Field("capabilities", SYMBOLS),
        ),
        Layout(
            0x29,
            "amqp:target:list",
            Target,
            Field("address", ANY),
            Field("durable", UINT),
            Field("expiry_policy", SYMBOL),
            Field("timeout", UINT),
            Field("dynamic", BOOLEAN),
            Field("dynamic_node_properties", MAP),
            Field("capabilities", SYMBOLS),
        ),
        Layout(
            0x40,
            "amqp:sasl-mechanisms:list",
            SaslMechanisms,
            Field("sasl_server_mechanisms", SYMBOLS, required=True),
        ),
        Layout(
            0x41,
            "amqp:sasl-init:list",
            SaslInit,
            Field("mechanism", SYMBOL, required=True),
            Field("initial_response", BINARY),
            Field("hostname", STRING),
        ),
        Layout(
            0x42,
            "amqp:sasl-challenge:list",
            SaslChallenge,
            Field("challenge", BINARY, required=True),
        ),
        Layout(
            0x43,
            "amqp:sasl-response:list",
            SaslResponse,
            Field("response", BINARY, required=True),
        ),
        Layout(
            0x44,
            "amqp:sasl-outcome:list",
            SaslOutcome,
            Field("code", UBYTE, required=True),
            Field("additional_data", BINARY),
        ),
    )
}
_BY_NAME: Final = {layout.name: code for code, layout in LAYOUTS.items()}
_BY_CLASS: Final[dict[Any, Layout]] = {layout.make: layout for layout in LAYOUTS.values()}
_STATES: Final = frozenset({0x23, 0x24, 0x25, 0x26, 0x27})


def encode(performative: Performative | SaslFrame | Source | Target | DeliveryState) -> bytes:
    """Return a performative, or a composite in one, in bytes.

    Raises:
        LocalProtocolError: a field has a value that its type does not allow.
    """
    return _encode_any(performative)


def read(data: bytes) -> tuple[Performative | SaslFrame, int]:
    """Return the performative at the beginning of a frame's body, and where the payload begins.

    Raises:
        RemoteProtocolError: there is none; also whatever `decoder.MALFORMED` lists.
    """
    code, values, position = read_fields(data)
    if code not in _IN_FRAMES:
        raise RemoteProtocolError("frame holds no performative")
    performative: Performative | SaslFrame = LAYOUTS[code].from_list(values)
    return performative, position


def read_fields(data: bytes) -> tuple[int, list[Value], int]:
    """Return code and fields of the performative, and where the payload begins.

    For what comes in great numbers, which is served without making an object of it.
    """
    if data[0] != 0:
        raise RemoteProtocolError("frame does not begin with a performative")
    if data[1] == 0x53:
        code = data[2]
        position = 3
    else:
        descriptor, position = decoder.read(data, 1)
        code = _code_of(descriptor)
    values, position = decoder.read_list(data, position, decoder.PLAIN_READERS)
    return code, values, position


def _code_of(descriptor: Value) -> int:
    """Return the code of a composite by either of its descriptors, or -1."""
    if isinstance(descriptor, int):
        return int(descriptor)
    return _BY_NAME.get(descriptor, -1) if isinstance(descriptor, str) else -1


_IN_FRAMES: Final = frozenset({*range(0x10, 0x19), *range(0x40, 0x45)})
