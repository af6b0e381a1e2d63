"""MQTT 3.1.1 packets as bytes, beside what they mean or why they are refused.

The bytes are written out here, not made by the encoder under test. Where a packet is long, `framed`
puts a header before it and the boundary cases show each form of that header literally.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    Will,
)


@dataclass(frozen=True)
class Case:
    """A name, bytes, and either the packet they are or the reason why they are none.

    `first` tells whether a server is to meet the bytes as the first of a connection, or after a
    good CONNECT.
    """

    name: str
    data: bytes
    packet: Packet | None = None
    error: str | None = None
    reply_hint: int | None = None
    first: bool = False

    def __str__(self) -> str:
        return self.name


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return bytes((len(raw) >> 8, len(raw) & 255)) + raw


def framed(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    header, left = bytes((first,)), len(body)
    while left > 127:
        header += bytes((left % 128 + 128,))
        left //= 128
    return header + bytes((left,)) + body


# CONNECT as the SDKs write it (hub-device.md 2.1, 12.1; dps.md 1.3).

PY_USERNAME = (
    "localhost/d1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0"
    "%283.11.7%3BLinux%20%231%20SMP%3Bx86_64%29"
)
NODE_USERNAME = (
    "localhost/d1/m1/?api-version=2021-04-12&model-id=dtmi:com:x;1"
    "&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20.11.0)"
)
CS_USERNAME = (
    "localhost/leaf/?api-version=2020-09-30&DeviceClientType=.NET%2F1.42.3&auth-chain=leaf;gw"
    "&model-id=dtmi%3Acom%3Ax%3B1"
)
DPS_USERNAME = (
    "0ne00111111/registrations/dev1/api-version=2019-03-31"
    "&ClientVersion=azure-iot-device-provisioning-py%2F2.14.0%283.11.7%29"
)
HUB_TOKEN = b"SharedAccessSignature sr=localhost%2Fdevices%2Fd1&sig=c2lnbmF0dXJl&se=1900000000"
DPS_TOKEN = (
    b"SharedAccessSignature sr=0ne00111111%2Fregistrations%2Fdev1&sig=c2lnbmF0dXJl&se=1900000000"
)

SDK_CONNECTS = (
    Case(
        "connect-python-device",
        framed(
            0x10,
            b"\x00\x04MQTT\x04\xc0\x00\x3c",
            text("d1"),
            text(PY_USERNAME),
            text(HUB_TOKEN),
        ),
        Connect("d1", PY_USERNAME, HUB_TOKEN, clean_session=False, keep_alive_s=60),
        first=True,
    ),
    Case(
        "connect-node-module",
        framed(
            0x10,
            b"\x00\x04MQTT\x04\xc0\x00\xb4",
            text("d1/m1"),
            text(NODE_USERNAME),
            text(HUB_TOKEN),
        ),
        Connect("d1/m1", NODE_USERNAME, HUB_TOKEN, clean_session=False, keep_alive_s=180),
        first=True,
    ),
    Case(
        "connect-csharp-leaf-with-will",
        framed(
            0x10,
            b"\x00\x04MQTT\x04\xcc\x01\x2c",
            text("leaf"),
            text("devices/leaf/messages/events/"),
            text(b'{"gone":true}'),
            text(CS_USERNAME),
            text(HUB_TOKEN),
        ),
        Connect(
            "leaf",
            CS_USERNAME,
            HUB_TOKEN,
            clean_session=False,
            keep_alive_s=300,
            will=Will("devices/leaf/messages/events/", b'{"gone":true}', 1),
        ),
        first=True,
    ),
    Case(
        "connect-x509-without-password",
        framed(0x10, b"\x00\x04MQTT\x04\x80\x00\xf0", text("d1"), text("localhost/d1/")),
        Connect("d1", "localhost/d1/", clean_session=False, keep_alive_s=240),
        first=True,
    ),
    Case(
        "connect-python-provisioning",
        framed(
            0x10,
            b"\x00\x04MQTT\x04\xc0\x00\x3c",
            text("dev1"),
            text(DPS_USERNAME),
            text(DPS_TOKEN),
        ),
        Connect("dev1", DPS_USERNAME, DPS_TOKEN, clean_session=False, keep_alive_s=60),
        first=True,
    ),
)

CONNECT = SDK_CONNECTS[0].data
"""A good CONNECT, for whoever needs a connection to be open."""

OTHER_CONNECTS = (
    Case(
        "connect-anonymous-clean-without-keep-alive",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
        Connect("", keep_alive_s=0),
        first=True,
    ),
    Case(
        "connect-empty-fields",
        b"\x10\x11\x00\x04MQTT\x04\xc2\xff\xff\x00\x01d\x00\x00\x00\x00",
        Connect("d", "", b"", keep_alive_s=65535),
        first=True,
    ),
    Case(
        "connect-will-qos-2-retained-empty",
        b"\x10\x12\x00\x04MQTT\x04\x36\x00\x3c\x00\x01d\x00\x01t\x00\x00",
        Connect("d", will=Will("t", b"", 2, retain=True)),
        first=True,
    ),
    Case(
        "connect-password-is-not-text",
        b"\x10\x14\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01d\x00\x01u\x00\x02\xff\x00",
        Connect("d", "u", b"\xff\x00"),
        first=True,
    ),
)


def _sized(name: str, header: bytes, body_size: int) -> Case:
    """Return a QoS 1 PUBLISH on topic `t` whose remaining length is `body_size`."""
    payload = bytes(body_size - 5)
    return Case(name, header + b"\x00\x01t\x00\x01" + payload, Publish("t", payload, 1, 1))


PUBLISHES = (
    Case("publish-qos-0", b"\x30\x05\x00\x03a/b", Publish("a/b")),
    # Device IDs may hold them (hub-device.md 6).
    Case("publish-topic-wildcards", b"\x30\x05\x00\x03+/#", Publish("+/#")),
    Case("publish-qos-0-payload", b"\x30\x07\x00\x03a/bhi", Publish("a/b", b"hi")),
    Case("publish-qos-0-retain", b"\x31\x06\x00\x03a/b!", Publish("a/b", b"!", retain=True)),
    Case("publish-qos-1", b"\x32\x09\x00\x03a/b\x12\x34hi", Publish("a/b", b"hi", 1, 0x1234)),
    Case("publish-qos-1-empty", b"\x32\x07\x00\x03a/b\x00\x01", Publish("a/b", b"", 1, 1)),
    Case("publish-qos-1-last-id", b"\x32\x05\x00\x01t\xff\xff", Publish("t", b"", 1, 65535)),
    Case(
        "publish-qos-1-retain",
        b"\x33\x09\x00\x03a/b\x00\x01hi",
        Publish("a/b", b"hi", 1, 1, retain=True),
    ),
    Case(
        "publish-qos-1-dup",
        b"\x3a\x09\x00\x03a/b\x00\x01hi",
        Publish("a/b", b"hi", 1, 1, dup=True),
    ),
    Case(
        "publish-qos-1-dup-retain",
        b"\x3b\x09\x00\x03a/b\x00\x01hi",
        Publish("a/b", b"hi", 1, 1, retain=True, dup=True),
    ),
    Case(
        "publish-telemetry",
        framed(
            0x32,
            text("devices/d1/messages/events/%24.mid=id%201&%24.ct=application%2Fjson&al%20ert=x"),
            b"\x00\x02",
            b'{"temperature":21.5}',
        ),
        Publish(
            "devices/d1/messages/events/%24.mid=id%201&%24.ct=application%2Fjson&al%20ert=x",
            b'{"temperature":21.5}',
            1,
            2,
        ),
    ),
    Case(
        "publish-twin-get",
        framed(0x32, text("$iothub/twin/GET/?$rid=1f"), b"\x00\x03 "),
        Publish("$iothub/twin/GET/?$rid=1f", b" ", 1, 3),
    ),
    Case(
        "publish-topic-beyond-ascii",
        b"\x32\x0d\x00\x09\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x00\x01",
        Publish("é€😀", b"", 1, 1),
    ),
    Case(
        "publish-topic-keeps-byte-order-mark",
        b"\x32\x07\x00\x03\xef\xbb\xbf\x00\x01",
        Publish("\ufeff", b"", 1, 1),
    ),
    Case(
        "publish-longest-topic",
        framed(0x32, b"\xff\xff", b"t" * 65535, b"\x00\x01"),
        Publish("t" * 65535, b"", 1, 1),
    ),
    _sized("publish-length-127", b"\x32\x7f", 127),
    _sized("publish-length-128", b"\x32\x80\x01", 128),
    _sized("publish-length-16383", b"\x32\xff\x7f", 16_383),
    _sized("publish-length-16384", b"\x32\x80\x80\x01", 16_384),
    _sized("publish-largest-message", b"\x32\x85\x80\x10", 262_144 + 5),
)

ACKNOWLEDGEMENTS = (
    Case("puback", b"\x40\x02\x00\x01", Puback(1)),
    Case("puback-last-id", b"\x40\x02\xff\xff", Puback(65535)),
    Case("pubrec", b"\x50\x02\x00\x01", Pubrec(1)),
    Case("pubrel", b"\x62\x02\x00\x01", Pubrel(1)),
    Case("pubcomp", b"\x70\x02\x00\x01", Pubcomp(1)),
    Case("unsuback", b"\xb0\x02\x01\x00", Unsuback(256)),
)

SUBSCRIPTIONS = (
    Case(
        "subscribe-one",
        framed(0x82, b"\x00\x01", text("$iothub/twin/res/#"), b"\x01"),
        Subscribe(1, [("$iothub/twin/res/#", 1)]),
    ),
    Case(
        "subscribe-several-as-the-c-sdk",
        framed(
            0x82,
            b"\x00\x02",
            text("$iothub/twin/res/#"),
            b"\x00",
            text("$iothub/methods/POST/#"),
            b"\x00",
            text("devices/d1/messages/devicebound/#"),
            b"\x01",
        ),
        Subscribe(
            2,
            [
                ("$iothub/twin/res/#", 0),
                ("$iothub/methods/POST/#", 0),
                ("devices/d1/messages/devicebound/#", 1),
            ],
        ),
    ),
    Case(
        "subscribe-every-wildcard",
        b"\x82\x11\x00\x01\x00\x01#\x02\x00\x01+\x00\x00\x04+/+/\x01",
        Subscribe(1, [("#", 2), ("+", 0), ("+/+/", 1)]),
    ),
    Case("suback", b"\x90\x06\x00\x01\x00\x01\x02\x80", Suback(1, [0, 1, 2, 0x80])),
    Case(
        "unsubscribe",
        b"\xa2\x0a\x00\x01\x00\x03a/#\x00\x01b",
        Unsubscribe(1, ["a/#", "b"]),
    ),
)

OTHERS = (
    Case("connack-accepted", b"\x20\x02\x00\x00", Connack(0)),
    Case("connack-session-present", b"\x20\x02\x01\x00", Connack(0, session_present=True)),
    Case("connack-not-authorized", b"\x20\x02\x00\x05", Connack(5)),
    Case("pingreq", b"\xc0\x00", Pingreq()),
    Case("pingresp", b"\xd0\x00", Pingresp()),
    Case("disconnect", b"\xe0\x00", Disconnect()),
)

QOS_2 = (
    Case("publish-qos-2", b"\x34\x09\x00\x03a/b\x00\x01hi", Publish("a/b", b"hi", 2, 1)),
    Case(
        "publish-qos-2-dup-retain",
        b"\x3d\x05\x00\x01t\x00\x01",
        Publish("t", b"", 2, 1, retain=True, dup=True),
    ),
)

PACKETS = (
    *SDK_CONNECTS,
    *OTHER_CONNECTS,
    *PUBLISHES,
    *QOS_2,
    *ACKNOWLEDGEMENTS,
    *SUBSCRIPTIONS,
    *OTHERS,
)
"""Packets whose bytes are exactly what the encoder has to write."""

UNUSUAL = (
    Case("pingreq-length-in-two-bytes", b"\xc0\x80\x00", Pingreq()),
    Case("puback-length-in-four-bytes", b"\x40\x82\x80\x80\x00\x00\x01", Puback(1)),
    Case(
        "publish-length-in-three-bytes",
        b"\x32\x85\x80\x00\x00\x01t\x00\x01",
        Publish("t", b"", 1, 1),
    ),
)
"""Packets in bytes that we read and never write."""


def _connect(name: str, body: bytes, error: str, reply_hint: int | None = None) -> Case:
    return Case(name, framed(0x10, body), None, error, reply_hint, first=True)


_HEAD = b"\x00\x04MQTT\x04"  # name and level; flags and keep-alive follow

BAD_CONNECTS = (
    _connect("connect-empty", b"", "protocol name does not fit into its packet"),
    _connect("connect-name-cut", b"\x00\x04MQ", "protocol name does not fit into its packet"),
    _connect("connect-name-not-utf-8", b"\x00\x01\xff\x04", "protocol name is not UTF-8"),
    _connect("connect-name-wrong", b"\x00\x04mqtt\x04\x02\x00\x00", "protocol name is not MQTT"),
    _connect(
        "connect-mqtt-3.1",
        b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01d",
        "protocol name is not MQTT",
        1,
    ),
    _connect(
        "connect-mqtt-5",
        b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d",
        "protocol level is 5, not 4",
        1,
    ),
    _connect(
        "connect-bridge-bit",
        b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01d",
        "protocol level is 132, not 4",
        1,
    ),
    _connect("connect-without-level", b"\x00\x04MQTT", "CONNECT is too short"),
    _connect("connect-without-flags", _HEAD, "CONNECT is too short"),
    _connect("connect-keep-alive-cut", _HEAD + b"\x02\x00", "CONNECT is too short"),
    _connect(
        "connect-without-client-id",
        _HEAD + b"\x02\x00\x3c",
        "client identifier does not fit into its packet",
    ),
    _connect(
        "connect-client-id-cut",
        _HEAD + b"\x02\x00\x3c\x00\x02d",
        "client identifier does not fit into its packet",
    ),
    _connect(
        "connect-client-id-with-nul",
        _HEAD + b"\x02\x00\x3c\x00\x01\x00",
        "client identifier holds U+0000",
    ),
    _connect(
        "connect-client-id-not-utf-8",
        _HEAD + b"\x02\x00\x3c\x00\x02\xc0\x80",
        "client identifier is not UTF-8",
    ),
    _connect(
        "connect-client-id-half-surrogate-pair",
        _HEAD + b"\x02\x00\x3c\x00\x03\xed\xa0\x80",
        "client identifier is not UTF-8",
    ),
    _connect(
        "connect-nobody-with-a-session",
        _HEAD + b"\x00\x00\x3c\x00\x00",
        "client identifier is empty without a clean session",
        2,
    ),
    _connect(
        "connect-reserved-flag",
        _HEAD + b"\x03\x00\x3c\x00\x01d",
        "CONNECT has its reserved flag set",
    ),
    _connect(
        "connect-will-qos-without-will",
        _HEAD + b"\x0a\x00\x3c\x00\x01d",
        "CONNECT has will flags without a will",
    ),
    _connect(
        "connect-will-retain-without-will",
        _HEAD + b"\x22\x00\x3c\x00\x01d",
        "CONNECT has will flags without a will",
    ),
    _connect(
        "connect-will-qos-3",
        _HEAD + b"\x1e\x00\x3c\x00\x01d\x00\x01t\x00\x00",
        "will QoS is 3",
    ),
    _connect(
        "connect-without-will-topic",
        _HEAD + b"\x06\x00\x3c\x00\x01d",
        "will topic does not fit into its packet",
    ),
    _connect(
        "connect-will-topic-empty",
        _HEAD + b"\x06\x00\x3c\x00\x01d\x00\x00\x00\x00",
        "will topic is empty",
    ),
    _connect(
        "connect-without-will-message",
        _HEAD + b"\x06\x00\x3c\x00\x01d\x00\x01t",
        "will message does not fit into its packet",
    ),
    _connect(
        "connect-without-user-name",
        _HEAD + b"\x82\x00\x3c\x00\x01d",
        "user name does not fit into its packet",
    ),
    _connect(
        "connect-user-name-not-utf-8",
        _HEAD + b"\x82\x00\x3c\x00\x01d\x00\x01\xff",
        "user name is not UTF-8",
    ),
    _connect(
        "connect-password-alone",
        _HEAD + b"\x42\x00\x3c\x00\x01d\x00\x01p",
        "CONNECT has a password without a user name",
    ),
    _connect(
        "connect-password-cut",
        _HEAD + b"\xc2\x00\x3c\x00\x01d\x00\x01u\x00\x02p",
        "password does not fit into its packet",
    ),
    _connect(
        "connect-trailing-bytes",
        _HEAD + b"\x02\x00\x3c\x00\x01d!",
        "CONNECT has bytes after its last field",
    ),
    Case(
        "connect-header-flags",
        b"\x11\x0d" + _HEAD + b"\x02\x00\x3c\x00\x01d",
        error="CONNECT has reserved flags set",
        first=True,
    ),
)


def _bad(name: str, data: bytes, error: str) -> Case:
    return Case(name, data, error=error)


MALFORMED = (
    _bad("type-0", b"\x00\x00", "packet of reserved type 0"),
    _bad("type-15", b"\xf0\x00", "packet of reserved type 15"),
    _bad(
        "length-in-five-bytes",
        b"\xc0\x80\x80\x80\x80\x00",
        "remaining length is longer than four bytes",
    ),
    _bad(
        "larger-than-allowed",
        b"\x32\xff\xff\xff\x7f",
        "packet is larger than 327688 bytes",
    ),
    _bad("publish-qos-3", b"\x36\x05\x00\x01t\x00\x01", "PUBLISH has QoS 3"),
    _bad("publish-qos-0-dup", b"\x38\x03\x00\x01t", "PUBLISH has QoS 0 and DUP"),
    _bad("publish-empty", b"\x32\x00", "PUBLISH is too short"),
    _bad("publish-topic-length-cut", b"\x30\x01\x00", "PUBLISH is too short"),
    _bad("publish-topic-cut", b"\x30\x03\x00\x02t", "PUBLISH is too short"),
    _bad("publish-without-id", b"\x32\x03\x00\x01t", "PUBLISH is too short"),
    _bad("publish-id-cut", b"\x32\x04\x00\x01t\x00", "PUBLISH is too short"),
    _bad("publish-id-0", b"\x32\x05\x00\x01t\x00\x00", "PUBLISH has packet identifier 0"),
    _bad("publish-topic-empty", b"\x32\x04\x00\x00\x00\x01", "PUBLISH topic is empty"),
    _bad("publish-topic-nul", b"\x30\x04\x00\x02t\x00", "PUBLISH topic holds U+0000"),
    _bad("publish-topic-not-utf-8", b"\x30\x03\x00\x01\xff", "PUBLISH topic is not UTF-8"),
    _bad("publish-topic-overlong", b"\x30\x04\x00\x02\xc0\xaf", "PUBLISH topic is not UTF-8"),
    _bad(
        "publish-topic-half-surrogate-pair",
        b"\x32\x07\x00\x03\xed\xb0\x80\x00\x01",
        "PUBLISH topic is not UTF-8",
    ),
    _bad("publish-retained-cut", b"\x33\x01\x00", "PUBLISH topic does not fit into its packet"),
    _bad("publish-retained-without-id", b"\x33\x03\x00\x01t", "PUBLISH is too short"),
    _bad("publish-retained-id-0", b"\x33\x05\x00\x01t\x00\x00", "PUBLISH has packet identifier 0"),
    _bad("publish-retained-not-utf-8", b"\x31\x03\x00\x01\xff", "PUBLISH topic is not UTF-8"),
    _bad("puback-flags", b"\x42\x02\x00\x01", "PUBACK has reserved flags set"),
    _bad("puback-empty", b"\x40\x00", "PUBACK is not two bytes long"),
    _bad("puback-long", b"\x40\x03\x00\x01\x00", "PUBACK is not two bytes long"),
    _bad("puback-id-0", b"\x40\x02\x00\x00", "PUBACK has packet identifier 0"),
    _bad("subscribe-flags", b"\x80\x06\x00\x01\x00\x01a\x00", "SUBSCRIBE has reserved flags set"),
    _bad("subscribe-empty", b"\x82\x00", "SUBSCRIBE is too short"),
    _bad("subscribe-without-filter", b"\x82\x02\x00\x01", "SUBSCRIBE has no topic filter"),
    _bad("subscribe-id-0", b"\x82\x06\x00\x00\x00\x01a\x00", "SUBSCRIBE has packet identifier 0"),
    _bad(
        "subscribe-without-qos",
        b"\x82\x05\x00\x01\x00\x01a",
        "SUBSCRIBE has a topic filter without a QoS",
    ),
    _bad("subscribe-qos-3", b"\x82\x06\x00\x01\x00\x01a\x03", "SUBSCRIBE has a bad QoS"),
    _bad(
        "subscribe-reserved-qos-bits", b"\x82\x06\x00\x01\x00\x01a\x41", "SUBSCRIBE has a bad QoS"
    ),
    _bad(
        "subscribe-filter-cut",
        b"\x82\x06\x00\x01\x00\x05a\x00",
        "topic filter does not fit into its packet",
    ),
    _bad("subscribe-filter-empty", b"\x82\x05\x00\x01\x00\x00\x00", "topic filter is empty"),
    _bad(
        "subscribe-filter-not-utf-8",
        b"\x82\x06\x00\x01\x00\x01\xff\x00",
        "topic filter is not UTF-8",
    ),
    _bad(
        "subscribe-filter-nul",
        b"\x82\x06\x00\x01\x00\x01\x00\x00",
        "topic filter holds U+0000",
    ),
    _bad(
        "subscribe-hash-before-the-end",
        b"\x82\x08\x00\x01\x00\x03#/a\x00",
        "topic filter has '#' elsewhere than alone at its end",
    ),
    _bad(
        "subscribe-hash-beside-characters",
        b"\x82\x07\x00\x01\x00\x02a#\x00",
        "topic filter has '#' elsewhere than alone at its end",
    ),
    _bad(
        "subscribe-plus-beside-characters",
        b"\x82\x09\x00\x01\x00\x04a+/b\x00",
        "topic filter has '+' beside other characters",
    ),
    _bad("unsubscribe-flags", b"\xa0\x05\x00\x01\x00\x01a", "UNSUBSCRIBE has reserved flags set"),
    _bad("unsubscribe-without-filter", b"\xa2\x02\x00\x01", "UNSUBSCRIBE has no topic filter"),
    _bad("unsubscribe-id-0", b"\xa2\x05\x00\x00\x00\x01a", "UNSUBSCRIBE has packet identifier 0"),
    _bad(
        "unsubscribe-trailing-byte",
        b"\xa2\x06\x00\x01\x00\x01a\x00",
        "topic filter does not fit into its packet",
    ),
    _bad("pingreq-flags", b"\xc1\x00", "PINGREQ has reserved flags set"),
    _bad("pingreq-not-empty", b"\xc0\x01\x00", "PINGREQ is not empty"),
    _bad("disconnect-flags", b"\xe2\x00", "DISCONNECT has reserved flags set"),
    _bad("disconnect-not-empty", b"\xe0\x01\x00", "DISCONNECT is not empty"),
)
"""What neither end may send, and a client may not send after CONNECT."""

MALFORMED_FROM_SERVERS = (
    _bad("connack-flags", b"\x21\x02\x00\x00", "CONNACK has reserved flags set"),
    _bad("connack-short", b"\x20\x01\x00", "CONNACK is not two bytes long"),
    _bad("connack-reserved-bits", b"\x20\x02\x02\x00", "CONNACK has reserved flags set"),
    _bad("connack-code-6", b"\x20\x02\x00\x06", "CONNACK has a reserved return code"),
    _bad("connack-refuses-session", b"\x20\x02\x01\x05", "CONNACK refuses and has a session"),
    _bad("pubrel-flags", b"\x60\x02\x00\x01", "PUBREL has reserved flags set"),
    _bad("suback-short", b"\x90\x01\x00", "SUBACK is too short"),
    _bad("suback-without-code", b"\x90\x02\x00\x01", "SUBACK has no return code"),
    _bad("suback-code-3", b"\x90\x03\x00\x01\x03", "SUBACK has a reserved return code"),
    _bad("unsuback-id-0", b"\xb0\x02\x00\x00", "UNSUBACK has packet identifier 0"),
    _bad("pingresp-not-empty", b"\xd0\x01\x00", "PINGRESP is not empty"),
)
"""Malformed packets of the kinds that a client may not send at all."""

REFUSED_FROM_CLIENTS = (
    Case(
        "first-is-publish-qos-0",
        b"\x30\x03\x00\x01t",
        error="the first packet is PUBLISH, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-publish-qos-1",
        b"\x32\x05\x00\x01t\x00\x01",
        error="the first packet is PUBLISH, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-huge-publish",
        b"\x32\xff\xff\xff\x7f",
        error="the first packet is PUBLISH, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-pingreq",
        b"\xc0\x00",
        error="the first packet is PINGREQ, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-http",
        b"GET / HTTP/1.1\r\n",
        error="the first packet is PUBACK, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-tls",
        b"\x16\x03\x01\x00\xc8",
        error="CONNECT has reserved flags set",
        first=True,
    ),
    Case(
        "first-is-type-0",
        b"\x00\x00",
        error="the first packet is reserved type 0, not CONNECT",
        first=True,
    ),
    Case(
        "first-is-huge-connect",
        b"\x10\xff\xff\x06",
        error="packet is larger than 98304 bytes",
        first=True,
    ),
    _bad("second-connect", CONNECT, "second CONNECT"),
    _bad("second-connect-of-level-5", b"\x10\x07\x00\x04MQTT\x05", "second CONNECT"),
    _bad(
        "qos-2-publish",
        b"\x34\x05\x00\x01t\x00\x01",
        "PUBLISH of QoS 2, which is not offered",
    ),
    _bad(
        "qos-2-publish-dup-retain",
        b"\x3d\x05\x00\x01t\x00\x01",
        "PUBLISH of QoS 2, which is not offered",
    ),
    _bad("pubrec", b"\x50\x02\x00\x01", "PUBREC of QoS 2, which is not offered"),
    _bad("pubrel", b"\x62\x02\x00\x01", "PUBREL of QoS 2, which is not offered"),
    _bad("pubcomp", b"\x70\x02\x00\x01", "PUBCOMP of QoS 2, which is not offered"),
    _bad("connack", b"\x20\x02\x00\x00", "CONNACK is for servers to send"),
    _bad("suback", b"\x90\x03\x00\x01\x00", "SUBACK is for servers to send"),
    _bad("unsuback", b"\xb0\x02\x00\x01", "UNSUBACK is for servers to send"),
    _bad("pingresp", b"\xd0\x00", "PINGRESP is for servers to send"),
)
"""What a server refuses at that point of a connection, however well-formed."""
