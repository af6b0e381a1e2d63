"""MQTT 3.1.1: from packets to bytes, for either end of a connection.

Section numbers and rule names in brackets are those of the OASIS standard "MQTT Version 3.1.1".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from muster.wire.mqtt.bodies import topic_filter_fault, topic_name_fault
from muster.wire.mqtt.errors import LocalProtocolError
from muster.wire.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LONGEST_REMAINING: Final = 268_435_455  # what four bytes of seven bits can say (2.2.3)


def encode(packet: Packet) -> bytes:
    """Return the packet in bytes.

    Raises:
        LocalProtocolError: a field has a value that MQTT 3.1.1 cannot or may not carry.
    """
    return _ENCODERS[type(packet)](packet)


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    packet_id: int | None = None,
    *,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """Return a PUBLISH in bytes; the arguments are those of `Publish`.

    Raises:
        LocalProtocolError: as `encode`.
    """
    field = _text(topic, "PUBLISH topic")
    if (fault := topic_name_fault(topic)) is not None:
        raise LocalProtocolError(f"PUBLISH topic {fault}")
    first = 0x30 | qos << 1 | (8 if dup else 0) | (1 if retain else 0)
    if qos == 0:
        if packet_id is not None or dup:
            raise LocalProtocolError("PUBLISH has QoS 0 and a packet identifier or DUP")
        return _packet(first, field, payload)
    if qos not in {1, 2}:
        raise LocalProtocolError("PUBLISH QoS is not 0 to 2")
    return _packet(first, field, _packet_id(packet_id), payload)


def encode_puback(packet_id: int) -> bytes:
    """Return the PUBACK for one packet identifier.

    Raises:
        LocalProtocolError: the identifier is not 1 to 65535.
    """
    return b"\x40\x02" + _packet_id(packet_id)


def encode_pubacks(packet_ids: Sequence[int]) -> bytes:
    """Return PUBACKs for these packet identifiers, in their order, in one piece.

    Raises:
        LocalProtocolError: an identifier is not 1 to 65535.
    """
    if packet_ids and not 0 < min(packet_ids) <= max(packet_ids) <= 0xFFFF:
        raise LocalProtocolError("packet identifier is not 1 to 65535")
    pubacks = [0x4002_0000 | packet_id for packet_id in packet_ids]
    return struct.pack(f">{len(pubacks)}I", *pubacks)


def _packet(first: int, *parts: bytes) -> bytes:
    """Return a packet of this first byte and body."""
    remaining = sum(map(len, parts))
    if remaining > _LONGEST_REMAINING:
        raise LocalProtocolError("packet is longer than a remaining length can say")
    header = bytearray((first,))
    while remaining > 127:
        header.append(remaining & 127 | 128)
        remaining >>= 7
    header.append(remaining)
    return b"".join((header, *parts))


def _binary(value: bytes, what: str) -> bytes:
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"{what} is longer than 65535 bytes")
    return len(value).to_bytes(2) + value


def _text(value: str, what: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{what} holds half a surrogate pair") from None
    if b"\0" in raw:
        raise LocalProtocolError(f"{what} holds U+0000")
    return _binary(raw, what)


def _packet_id(packet_id: int | None) -> bytes:
    if packet_id is None or not 0 < packet_id <= 0xFFFF:
        raise LocalProtocolError("packet identifier is not 1 to 65535")
    return packet_id.to_bytes(2)


def _filter(topic_filter: str) -> bytes:
    if (fault := topic_filter_fault(topic_filter)) is not None:
        raise LocalProtocolError(f"topic filter {fault}")
    return _text(topic_filter, "topic filter")


def _encode_connect(packet: Connect) -> bytes:
    # Name and level go out as given: a client may be one of another protocol version.
    flags = 0x02 if packet.clean_session else 0
    fields = [_text(packet.client_id, "client identifier")]
    if (will := packet.will) is not None:
        if (fault := topic_name_fault(will.topic)) is not None:
            raise LocalProtocolError(f"will topic {fault}")
        if will.qos not in {0, 1, 2}:
            raise LocalProtocolError("will QoS is not 0 to 2")
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        fields += _text(will.topic, "will topic"), _binary(will.payload, "will message")
    if packet.username is not None:
        flags |= 0x80
        fields.append(_text(packet.username, "user name"))
    if packet.password is not None:
        if packet.username is None:
            raise LocalProtocolError("CONNECT has a password without a user name")
        flags |= 0x40
        fields.append(_binary(packet.password, "password"))
    if not packet.client_id and not packet.clean_session:
        raise LocalProtocolError("client identifier is empty without a clean session")
    if not 0 <= packet.protocol_level <= 0xFF:
        raise LocalProtocolError("protocol level is not 0 to 255")
    if not 0 <= packet.keep_alive_s <= 0xFFFF:
        raise LocalProtocolError("keep-alive is not 0 to 65535 s")
    head = struct.pack(">BBH", packet.protocol_level, flags, packet.keep_alive_s)
    return _packet(0x10, _text(packet.protocol_name, "protocol name"), head, *fields)


def _encode_connack(packet: Connack) -> bytes:
    if not 0 <= packet.return_code <= 5:
        raise LocalProtocolError("CONNACK return code is not 0 to 5")
    if packet.return_code and packet.session_present:
        raise LocalProtocolError("CONNACK refuses and has a session")  # [MQTT-3.2.2-4]
    return bytes((0x20, 2, packet.session_present, packet.return_code))


def _encode_publish(packet: Publish) -> bytes:
    return encode_publish(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.packet_id,
        retain=packet.retain,
        dup=packet.dup,
    )


def _encode_subscribe(packet: Subscribe) -> bytes:
    if not packet.filters:
        raise LocalProtocolError("SUBSCRIBE has no topic filter")
    parts = [_packet_id(packet.packet_id)]
    for topic_filter, qos in packet.filters:
        if qos not in {0, 1, 2}:
            raise LocalProtocolError("SUBSCRIBE QoS is not 0 to 2")
        parts += _filter(topic_filter), bytes((qos,))
    return _packet(0x82, *parts)


def _encode_suback(packet: Suback) -> bytes:
    if not packet.return_codes or not {0, 1, 2, 0x80}.issuperset(packet.return_codes):
        raise LocalProtocolError("SUBACK return codes are not some of 0, 1, 2 and 128")
    return _packet(0x90, _packet_id(packet.packet_id), bytes(packet.return_codes))


def _encode_unsubscribe(packet: Unsubscribe) -> bytes:
    if not packet.filters:
        raise LocalProtocolError("UNSUBSCRIBE has no topic filter")
    return _packet(0xA2, _packet_id(packet.packet_id), *map(_filter, packet.filters))


def _acknowledgement(first: int) -> Callable[[Any], bytes]:
    return lambda packet: bytes((first, 2)) + _packet_id(packet.packet_id)


def _empty(first: int) -> Callable[[Any], bytes]:
    return lambda _packet: bytes((first, 0))


_ENCODERS: Final[dict[type[Packet], Callable[[Any], bytes]]] = {
    Connect: _encode_connect,
    Connack: _encode_connack,
    Publish: _encode_publish,
    Puback: _acknowledgement(0x40),
    Pubrec: _acknowledgement(0x50),
    Pubrel: _acknowledgement(0x62),
    Pubcomp: _acknowledgement(0x70),
    Subscribe: _encode_subscribe,
    Suback: _encode_suback,
    Unsubscribe: _encode_unsubscribe,
    Unsuback: _acknowledgement(0xB0),
    Pingreq: _empty(0xC0),
    Pingresp: _empty(0xD0),
    Disconnect: _empty(0xE0),
}
