"""The control packets of MQTT 3.1.1 as plain values.

Plain slotted classes and not frozen dataclasses: making one of those costs as much as parsing the
packet. Treat them as immutable all the same. Bytes (payloads, passwords) never show in a `repr`.

Section numbers are those of the OASIS standard "MQTT Version 3.1.1".
"""

from __future__ import annotations

from typing import Final, TypeAlias, final

PROTOCOL_NAME: Final = "MQTT"
PROTOCOL_LEVEL: Final = 4
"""What a CONNECT of MQTT 3.1.1 says it is (3.1.2.1, 3.1.2.2)."""


class _Value:
    """Equality by fields, and a `repr` that tells no secrets."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields())

    # Equal by value and mutable.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self._fields())
        shown = ", ".join(
            f"{name}=<{len(value)} bytes>" if isinstance(value, bytes) else f"{name}={value!r}"
            for name, value in fields
        )
        return f"{type(self).__name__}({shown})"

    @classmethod
    def _fields(cls) -> list[str]:
        return [name for kind in cls.__mro__ for name in getattr(kind, "__slots__", ())]


@final
class Will(_Value):
    """What the server publishes for a client whose connection dies (3.1.2.5).

    Args:
        topic: topic name; `+` and `#` in it are plain characters.
        payload: at most 65,535 bytes.
        qos: 0 to 2.
        retain: whether the message is to be retained.
    """

    __slots__ = ("payload", "qos", "retain", "topic")

    def __init__(
        self, topic: str, payload: bytes = b"", qos: int = 0, *, retain: bool = False
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain


@final
class Connect(_Value):
    """The first packet of a client (3.1).

    Args:
        client_id: may be empty only with a clean session.
        username: None when the flag is not set, which is not the same as empty.
        password: likewise; there is none without a user name.
        clean_session: False asks for the session of the last time (3.1.2.4).
        keep_alive_s: longest silence the client promises, in seconds; 0 for no promise.
        will: None without the will flag.
        protocol_name: always `MQTT` when decoded.
        protocol_level: always 4 when decoded.
    """

    __slots__ = (
        "clean_session",
        "client_id",
        "keep_alive_s",
        "password",
        "protocol_level",
        "protocol_name",
        "username",
        "will",
    )

    def __init__(
        self,
        client_id: str,
        username: str | None = None,
        password: bytes | None = None,
        *,
        clean_session: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        protocol_name: str = PROTOCOL_NAME,
        protocol_level: int = PROTOCOL_LEVEL,
    ) -> None:
        self.client_id = client_id
        self.username = username
        self.password = password
        self.clean_session = clean_session
        self.keep_alive_s = keep_alive_s
        self.will = will
        self.protocol_name = protocol_name
        self.protocol_level = protocol_level


@final
class Connack(_Value):
    """The server's answer to CONNECT (3.2).

    Args:
        return_code: 0 accepted, 1 to 5 refused (3.2.2.3).
        session_present: whether the server kept the client's session; False when refused.
    """

    __slots__ = ("return_code", "session_present")

    def __init__(
        self,
        return_code: int,
        session_present: bool = False,  # noqa: FBT001, FBT002 - one flag, in the order of the spec
    ) -> None:
        self.return_code = return_code
        self.session_present = session_present


@final
class Publish(_Value):
    """An application message (3.3).

    Args:
        topic: topic name; `+` and `#` in it are plain characters.
        payload: any bytes.
        qos: 0 to 2.
        packet_id: 1 to 65535 for QoS 1 and 2, None for QoS 0.
        retain: the RETAIN flag.
        dup: whether this may be a repetition; False for QoS 0.
    """

    __slots__ = ("dup", "packet_id", "payload", "qos", "retain", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        packet_id: int | None = None,
        *,
        retain: bool = False,
        dup: bool = False,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.packet_id = packet_id
        self.retain = retain
        self.dup = dup


class _Acknowledgement(_Value):
    """A packet that says nothing but which packet it answers."""

    __slots__ = ("packet_id",)

    def __init__(self, packet_id: int) -> None:
        self.packet_id = packet_id


@final
class Puback(_Acknowledgement):
    """A QoS 1 PUBLISH has arrived (3.4)."""

    __slots__ = ()


@final
class Pubrec(_Acknowledgement):
    """A QoS 2 PUBLISH has arrived (3.5)."""

    __slots__ = ()


@final
class Pubrel(_Acknowledgement):
    """A QoS 2 PUBLISH may be released (3.6)."""

    __slots__ = ()


@final
class Pubcomp(_Acknowledgement):
    """A QoS 2 PUBLISH is done (3.7)."""

    __slots__ = ()


@final
class Subscribe(_Value):
    """A client asks for messages (3.8).

    Args:
        packet_id: 1 to 65535.
        filters: at least one pair of topic filter and the QoS wished, 0 to 2.
    """

    __slots__ = ("filters", "packet_id")

    def __init__(self, packet_id: int, filters: list[tuple[str, int]]) -> None:
        self.packet_id = packet_id
        self.filters = filters


@final
class Suback(_Value):
    """The answer to SUBSCRIBE (3.9).

    Args:
        packet_id: that of the SUBSCRIBE.
        return_codes: for each filter, in order, the QoS granted or 0x80 for refused.
    """

    __slots__ = ("packet_id", "return_codes")

    def __init__(self, packet_id: int, return_codes: list[int]) -> None:
        self.packet_id = packet_id
        self.return_codes = return_codes


@final
class Unsubscribe(_Value):
    """A client wants no more of some messages (3.10).

    Args:
        packet_id: 1 to 65535.
        filters: at least one topic filter.
    """

    __slots__ = ("filters", "packet_id")

    def __init__(self, packet_id: int, filters: list[str]) -> None:
        self.packet_id = packet_id
        self.filters = filters


@final
class Unsuback(_Acknowledgement):
    """The answer to UNSUBSCRIBE (3.11)."""

    __slots__ = ()


@final
class Pingreq(_Value):
    """A client shows that it is alive (3.12)."""

    __slots__ = ()


@final
class Pingresp(_Value):
    """The answer to PINGREQ (3.13)."""

    __slots__ = ()


@final
class Disconnect(_Value):
    """A client leaves in good order: its will is not published (3.14)."""

    __slots__ = ()


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)
