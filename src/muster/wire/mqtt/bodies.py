"""How the body of each control packet is read: everything after the fixed header.

`READERS` has an entry for each possible first byte of a packet. It is either the function that
reads the body, or the reason why no packet may start so; reserved flags (2.2.2) need no code of
their own that way. A reader gets the body and the low four bits of the first byte, and raises
`RemoteProtocolError` unless the body is exactly right to its last byte.

Section numbers and rule names in brackets are those of the OASIS standard "MQTT Version 3.1.1".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias, TypeVar

from muster.wire.mqtt.errors import RemoteProtocolError
from muster.wire.mqtt.packets import (
    PROTOCOL_LEVEL,
    PROTOCOL_NAME,
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
    Will,
)

Reader: TypeAlias = Callable[[bytes, int], Packet]
"""Reads a body; the second argument is the low four bits of the packet's first byte."""

Readers: TypeAlias = tuple[Reader | str, ...]
"""256 entries, by first byte: the reader, or the reason for refusing such a packet."""

TYPE_NAMES: Final = (
    "reserved type 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "reserved type 15",
)
"""By the high four bits of the first byte (2.2.1)."""

_UNACCEPTABLE_PROTOCOL_VERSION: Final = 1
_IDENTIFIER_REJECTED: Final = 2

_PacketT = TypeVar("_PacketT", bound=Packet)


def topic_name_fault(topic: str) -> str | None:
    """Return what is wrong with a topic name, as the end of a sentence, or None (4.7).

    `+` and `#` are let through although 4.7 forbids them: device IDs may hold them, and clients
    put IDs into topics as they are (hub-device.md 6).
    """
    if not topic:
        return "is empty"
    if "\0" in topic:
        return "holds U+0000"
    return None


def topic_filter_fault(topic_filter: str) -> str | None:
    """Return what is wrong with a topic filter, as the end of a sentence, or None (4.7.1)."""
    if not topic_filter:
        return "is empty"
    if "\0" in topic_filter:
        return "holds U+0000"
    if "#" in topic_filter or "+" in topic_filter:
        *parents, last = topic_filter.split("/")
        if any("#" in level for level in parents) or ("#" in last and last != "#"):
            return "has '#' elsewhere than alone at its end"
        if any("+" in level and level != "+" for level in (*parents, last)):
            return "has '+' beside other characters"
    return None


def _fail(reason: str, reply_hint: int | None = None) -> NoReturn:
    raise RemoteProtocolError(reason, reply_hint)


def _binary(body: bytes, at: int, what: str) -> tuple[bytes, int]:
    """Return the two-byte-prefixed field at `at` and the position after it."""
    start = at + 2
    end = start + int.from_bytes(body[at:start])
    if start > len(body) or end > len(body):
        _fail(f"{what} does not fit into its packet")
    return body[start:end], end


def _text(body: bytes, at: int, what: str) -> tuple[str, int]:
    """Return the UTF-8 field at `at` and the position after it (1.5.3)."""
    raw, end = _binary(body, at, what)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        _fail(f"{what} is not UTF-8")
    if "\0" in text:
        _fail(f"{what} holds U+0000")
    return text, end


def _packet_id(body: bytes, at: int, what: str) -> int:
    if len(body) < at + 2:
        _fail(f"{what} is too short")
    packet_id = body[at] << 8 | body[at + 1]
    if not packet_id:
        _fail(f"{what} has packet identifier 0")
    return packet_id


def _protocol(body: bytes) -> int:
    """Check the protocol of a CONNECT, and return the position after its level."""
    protocol_name, at = _text(body, 0, "protocol name")
    if protocol_name != PROTOCOL_NAME:
        # Clients of MQTT 3.1 said MQIsdp; they understand the answer (hub-device.md 2.1).
        _fail(
            "protocol name is not MQTT",
            _UNACCEPTABLE_PROTOCOL_VERSION if protocol_name == "MQIsdp" else None,
        )
    if at == len(body):
        _fail("CONNECT is too short")
    # What follows the level is of that level's form, so it is looked at before all else.
    if body[at] != PROTOCOL_LEVEL:
        _fail(f"protocol level is {body[at]}, not 4", _UNACCEPTABLE_PROTOCOL_VERSION)
    return at + 1


def _connect(body: bytes, _flags: int) -> Connect:
    at = _protocol(body)
    if len(body) < at + 3:
        _fail("CONNECT is too short")
    flags = body[at]
    keep_alive_s = body[at + 1] << 8 | body[at + 2]
    if flags & 0x01:
        _fail("CONNECT has its reserved flag set")
    clean_session = bool(flags & 0x02)
    client_id, at = _text(body, at + 3, "client identifier")
    will, at = _will(body, at, flags)
    username = password = None
    if flags & 0x80:
        username, at = _text(body, at, "user name")
    if flags & 0x40:
        if username is None:
            _fail("CONNECT has a password without a user name")
        password, at = _binary(body, at, "password")
    if at != len(body):
        _fail("CONNECT has bytes after its last field")
    if not client_id and not clean_session:
        _fail("client identifier is empty without a clean session", _IDENTIFIER_REJECTED)
    return Connect(
        client_id,
        username,
        password,
        clean_session=clean_session,
        keep_alive_s=keep_alive_s,
        will=will,
    )


def _will(body: bytes, at: int, flags: int) -> tuple[Will | None, int]:
    qos = flags >> 3 & 3
    retain = bool(flags & 0x20)
    if not flags & 0x04:
        if qos or retain:
            _fail("CONNECT has will flags without a will")
        return None, at
    if qos == 3:
        _fail("will QoS is 3")
    topic, at = _text(body, at, "will topic")
    if (fault := topic_name_fault(topic)) is not None:
        _fail(f"will topic {fault}")
    payload, at = _binary(body, at, "will message")
    return Will(topic, payload, qos, retain=retain), at


def _connack(body: bytes, _flags: int) -> Connack:
    if len(body) != 2:
        _fail("CONNACK is not two bytes long")
    present, return_code = body
    if present > 1:
        _fail("CONNACK has reserved flags set")
    if return_code > 5:
        _fail("CONNACK has a reserved return code")
    if present and return_code:
        _fail("CONNACK refuses and has a session")
    return Connack(return_code, bool(present))


def _publish(body: bytes, flags: int) -> Publish:
    """Read a PUBLISH with RETAIN, DUP or QoS 2; `Decoder.feed` reads the plain ones itself."""
    topic, at = _text(body, 0, "PUBLISH topic")
    if (fault := topic_name_fault(topic)) is not None:
        _fail(f"PUBLISH topic {fault}")
    packet_id = None
    qos = flags >> 1 & 3
    if qos:
        packet_id = _packet_id(body, at, "PUBLISH")
        at += 2
    return Publish(topic, body[at:], qos, packet_id, retain=bool(flags & 1), dup=bool(flags & 8))


def _only_packet_id(kind: Callable[[int], _PacketT], name: str) -> Reader:
    def read(body: bytes, _flags: int) -> _PacketT:
        if len(body) != 2:
            _fail(f"{name} is not two bytes long")
        return kind(_packet_id(body, 0, name))

    return read


def _empty(kind: Callable[[], _PacketT], name: str) -> Reader:
    def read(body: bytes, _flags: int) -> _PacketT:
        if body:
            _fail(f"{name} is not empty")
        return kind()

    return read


def _filter(body: bytes, at: int) -> tuple[str, int]:
    topic_filter, at = _text(body, at, "topic filter")
    if (fault := topic_filter_fault(topic_filter)) is not None:
        _fail(f"topic filter {fault}")
    return topic_filter, at


def _subscribe(body: bytes, _flags: int) -> Subscribe:
    packet_id, at = _packet_id(body, 0, "SUBSCRIBE"), 2
    filters: list[tuple[str, int]] = []
    while at < len(body):
        topic_filter, at = _filter(body, at)
        if at == len(body):
            _fail("SUBSCRIBE has a topic filter without a QoS")
        qos = body[at]
        if qos > 2:
            _fail("SUBSCRIBE has a bad QoS")
        at += 1
        filters.append((topic_filter, qos))
    if not filters:
        _fail("SUBSCRIBE has no topic filter")
    return Subscribe(packet_id, filters)


def _suback(body: bytes, _flags: int) -> Suback:
    packet_id = _packet_id(body, 0, "SUBACK")
    return_codes = list(body[2:])
    if not return_codes:
        _fail("SUBACK has no return code")
    if not {0, 1, 2, 0x80}.issuperset(return_codes):
        _fail("SUBACK has a reserved return code")
    return Suback(packet_id, return_codes)


def _unsubscribe(body: bytes, _flags: int) -> Unsubscribe:
    packet_id, at = _packet_id(body, 0, "UNSUBSCRIBE"), 2
    filters: list[str] = []
    while at < len(body):
        topic_filter, at = _filter(body, at)
        filters.append(topic_filter)
    if not filters:
        _fail("UNSUBSCRIBE has no topic filter")
    return Unsubscribe(packet_id, filters)


_BY_FIRST_BYTE: Final[dict[int, Reader]] = {
    0x10: _connect,
    0x20: _connack,
    0x40: _only_packet_id(Puback, "PUBACK"),
    0x50: _only_packet_id(Pubrec, "PUBREC"),
    0x62: _only_packet_id(Pubrel, "PUBREL"),
    0x70: _only_packet_id(Pubcomp, "PUBCOMP"),
    0x82: _subscribe,
    0x90: _suback,
    0xA2: _unsubscribe,
    0xB0: _only_packet_id(Unsuback, "UNSUBACK"),
    0xC0: _empty(Pingreq, "PINGREQ"),
    0xD0: _empty(Pingresp, "PINGRESP"),
    0xE0: _empty(Disconnect, "DISCONNECT"),
}


def _entry(first: int) -> Reader | str:
    packet_type, flags = first >> 4, first & 15
    if packet_type in {0, 15}:
        return f"packet of {TYPE_NAMES[packet_type]}"
    if packet_type == 3:
        if flags & 6 == 6:
            return "PUBLISH has QoS 3"
        if flags & 14 == 8:
            return "PUBLISH has QoS 0 and DUP"
        return _publish
    reader = _BY_FIRST_BYTE.get(first)
    return f"{TYPE_NAMES[packet_type]} has reserved flags set" if reader is None else reader


READERS: Final[Readers] = tuple(_entry(first) for first in range(256))
"""Every packet of MQTT 3.1.1, whoever sends it."""
