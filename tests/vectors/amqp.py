"""AMQP 1.0 as bytes, beside what they mean or why they are refused.

The bytes are written out here, not made by the encoder under test; `frame` puts a frame header
before a body. Sources: the OASIS standard, and what clients were seen to send (hub-device.md 12.3,
hub-service.md 3.6 and 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from muster.wire.amqp.messages import (
    AmqpSequence,
    AmqpValue,
    Data,
    Header,
    Message,
    Properties,
)
from muster.wire.amqp.performatives import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Open,
    Received,
    Rejected,
    Released,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Source,
    Target,
    Transfer,
)
from muster.wire.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)


@dataclass(frozen=True)
class Case:
    """A name, bytes, and either what they are or the reason why they are nothing.

    `condition` is the error condition that the peer is told.
    """

    name: str
    data: bytes
    value: Any = None
    error: str | None = None
    condition: str = "amqp:decode-error"

    def __str__(self) -> str:
        return self.name


def frame(channel: int, body: bytes, frame_type: int = 0) -> bytes:
    return (len(body) + 8).to_bytes(4) + bytes((2, frame_type)) + channel.to_bytes(2) + body


def compound(code: int, *items: bytes) -> bytes:
    """Put the short header of a list (c0) or map (c1) before encoded items."""
    body = b"".join(items)
    return bytes((code, len(body) + 1, len(items))) + body


def text(value: str) -> bytes:
    return b"\xa1" + bytes((len(value.encode()),)) + value.encode()


def symbol(value: str) -> bytes:
    return b"\xa3" + bytes((len(value),)) + value.encode()


UUID_BYTES = bytes(range(16))

# Values in the form that the encoder chooses.

VALUES = (
    Case("null", b"\x40", None),
    Case("true", b"\x41", value=True),
    Case("false", b"\x42", value=False),
    Case("ubyte", b"\x50\xff", UByte(255)),
    Case("ushort", b"\x60\x01\x00", UShort(256)),
    Case("uint-0", b"\x43", UInt(0)),
    Case("uint-small", b"\x52\xff", UInt(255)),
    Case("uint", b"\x70\x00\x00\x01\x00", UInt(256)),
    Case("uint-largest", b"\x70\xff\xff\xff\xff", UInt(0xFFFF_FFFF)),
    Case("ulong-0", b"\x44", ULong(0)),
    Case("ulong-small", b"\x53\x01", ULong(1)),
    Case("ulong", b"\x80" + b"\xff" * 8, ULong(0xFFFF_FFFF_FFFF_FFFF)),
    Case("byte", b"\x51\x80", Byte(-128)),
    Case("short", b"\x61\xff\xfe", Short(-2)),
    Case("int-small", b"\x54\xff", Int(-1)),
    Case("int-200", b"\x71\x00\x00\x00\xc8", Int(200)),
    Case("int-smallest", b"\x71\x80\x00\x00\x00", Int(-(2**31))),
    Case("long-small", b"\x55\x7f", 127),
    Case("long", b"\x81\x00\x00\x00\x00\x00\x00\x00\x80", 128),
    Case("long-smallest", b"\x81\x80" + b"\0" * 7, -(2**63)),
    Case("float", b"\x72\x3f\xc0\x00\x00", Float(1.5)),
    Case("double", b"\x82\x40\x04\x00\x00\x00\x00\x00\x00", 2.5),
    Case("decimal32", b"\x74abcd", Decimal32(b"abcd")),
    Case("decimal64", b"\x84abcdefgh", Decimal64(b"abcdefgh")),
    Case("decimal128", b"\x94abcdefghijklmnop", Decimal128(b"abcdefghijklmnop")),
    Case("char", b"\x73\x00\x01\xf6\x00", Char("\U0001f600")),
    Case("timestamp", b"\x83\x00\x00\x01\x8b\xcf\xe5\x68\x00", Timestamp(1_700_000_000_000)),
    Case("timestamp-before-1970", b"\x83" + b"\xff" * 8, Timestamp(-1)),
    Case("uuid", b"\x98" + UUID_BYTES, UUID(bytes=UUID_BYTES)),
    Case("binary-empty", b"\xa0\x00", b""),
    Case("binary", b"\xa0\x02\x00\xff", b"\x00\xff"),
    Case("binary-long", b"\xb0\x00\x00\x01\x00" + b"x" * 256, b"x" * 256),
    Case("string", b"\xa1\x03\xc3\xa9!", "é!"),
    Case("string-255", b"\xa1\xff" + b"x" * 255, "x" * 255),
    Case("string-256", b"\xb1\x00\x00\x01\x00" + b"x" * 256, "x" * 256),
    Case("symbol", b"\xa3\x05PLAIN", Symbol("PLAIN")),
    Case("symbol-long", b"\xb3\x00\x00\x01\x2c" + b"s" * 300, Symbol("s" * 300)),
    Case("list-empty-has-a-body", b"\xc0\x01\x00", []),
    Case("list", b"\xc0\x06\x02\x41\xa1\x02ab", [True, "ab"]),
    Case("list-long", b"\xd0\x00\x00\x01\x04\x00\x00\x01\x00" + b"\x40" * 256, [None] * 256),
    Case("list-in-list", b"\xc0\x04\x01\xc0\x01\x00", [[]]),
    Case("map-empty", b"\xc1\x01\x00", {}),
    Case("map", b"\xc1\x06\x02\xa1\x01k\x54\x01", {"k": Int(1)}),
    Case(
        "map-of-symbols",
        b"\xc1\x0e\x04\xa3\x01a\xa1\x01b\xa3\x01c\xc0\x02\x01\x41",
        {Symbol("a"): "b", Symbol("c"): [True]},
    ),
    Case(
        "array-of-symbols",
        b"\xe0\x0b\x02\xa3\x03abc\x04defg",
        Array(Symbol, [Symbol("abc"), Symbol("defg")]),
    ),
    Case("array-of-longs", b"\xe0\x0a\x01\x81" + b"\0" * 7 + b"\x05", Array(int, [5])),
    Case("array-of-true", b"\xe0\x04\x02\x56\x01\x00", Array(bool, [True, False])),
    Case("array-of-nothing", b"\xe0\x02\x00\x70", Array(UInt, [])),
    Case("array-of-nulls", b"\xe0\x02\x03\x40", Array(type(None), [None, None, None])),
    Case(
        "array-of-described",
        b"\xe0\x07\x01\x00\x53\x28\xa1\x01a",
        Array(str, ["a"], ULong(0x28)),
    ),
    Case(
        "array-of-lists",
        b"\xe0\x0b\x01\xd0\x00\x00\x00\x05\x00\x00\x00\x01\x41",
        Array(list, [[True]]),
    ),
    Case("described", b"\x00\x53\x24\xc0\x01\x00", Described(ULong(0x24), [])),
    Case(
        "described-by-a-symbol",
        b"\x00\xa3\x21apache.org:selector-filter:string\xa1\x01x",
        Described(Symbol("apache.org:selector-filter:string"), "x"),
    ),
)

# Other forms of values.

OTHER_VALUES = (
    Case("boolean-true", b"\x56\x01", value=True),
    Case("boolean-false", b"\x56\x00", value=False),
    Case("uint-0-wide", b"\x70\0\0\0\0", UInt(0)),
    Case("ulong-1-wide", b"\x80\0\0\0\0\0\0\0\x01", ULong(1)),
    Case("int-1-wide", b"\x71\0\0\0\x01", Int(1)),
    Case("long-1-wide", b"\x81\0\0\0\0\0\0\0\x01", 1),
    Case("string-wide", b"\xb1\0\0\0\x01a", "a"),
    Case("symbol-wide", b"\xb3\0\0\0\x01a", Symbol("a")),
    Case("binary-wide", b"\xb0\0\0\0\x01a", b"a"),
    Case("list-without-a-body", b"\x45", []),
    Case("list-wide", b"\xd0\0\0\0\x05\0\0\0\x01\x41", [True]),
    Case("map-wide", b"\xd1\0\0\0\x08\0\0\0\x02\xa1\x01k\x41", {"k": True}),
    Case("array-wide", b"\xf0\0\0\0\x06\0\0\0\x01\x50\x07", Array(UByte, [UByte(7)])),
    Case(
        "array-of-strings-wide",
        b"\xe0\x07\x01\xb1\0\0\0\x01a",
        Array(str, ["a"]),
    ),
    Case("array-of-small-longs", b"\xe0\x04\x02\x55\x01\x02", Array(int, [1, 2])),
    Case("descriptor-wide", b"\x00\x80" + b"\0" * 7 + b"\x24\x45", Described(ULong(0x24), [])),
)

CUT_OFF = "value is cut off or not of its type"

MALFORMED_VALUES = (
    Case("nothing", b"", error=CUT_OFF),
    Case("unknown-constructor", b"\x01", error="value is of no known type"),
    Case("two-values", b"\x40\x40", error="bytes are left behind a value"),
    Case("uint-cut-off", b"\x70\0\0\0", error=CUT_OFF),
    Case("small-uint-cut-off", b"\x52", error=CUT_OFF),
    Case("uuid-cut-off", b"\x98" + b"x" * 15, error="value is cut off"),
    Case("string-cut-off", b"\xa1\x02a", error="value is cut off"),
    Case("string-wide-cut-off", b"\xb1\xff\xff\xff\xffa", error="value is cut off"),
    Case("string-not-utf-8", b"\xa1\x01\xff", error=CUT_OFF),
    Case("symbol-not-ascii", b"\xa3\x02\xc3\xa9", error=CUT_OFF),
    Case("boolean-2", b"\x56\x02", error="boolean is neither 0 nor 1"),
    Case("char-surrogate", b"\x73\0\0\xd8\0", error="char is no Unicode character"),
    Case("char-too-high", b"\x73\0\x11\0\0", error="char is no Unicode character"),
    Case("list-cut-off", b"\xc0\x03\x02\x41", error="list or map is longer than what holds it"),
    Case(
        "list-of-too-many",
        b"\xd0\0\0\0\x05\xff\xff\xff\xff\x40",
        error="list or map is longer than what holds it",
    ),
    Case("list-too-long", b"\xc0\x03\x01\x41\x41", error="list or map is not as long as it says"),
    Case(
        "list-of-long-items",
        b"\xc0\x02\x01\xa1\x01a",
        error="list or map is not as long as it says",
    ),
    Case("list-of-size-0", b"\xc0\x00\x00", error="list or map is longer than what holds it"),
    Case("map-of-one", b"\xc1\x02\x01\x41", error="map has a key without a value"),
    Case(
        "map-by-list",
        b"\xc1\x05\x02\xc0\x01\x00\x41",
        error="map has a key of a type that is not served",
    ),
    Case(
        "map-by-uuid",
        b"\xc1\x13\x02\x98" + UUID_BYTES + b"\x41",
        error="map has a key of a type that is not served",
    ),
    Case(
        "array-of-too-many-nothings",
        b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40",
        error="array has more items than fit into it",
    ),
    Case(
        "array-of-too-many",
        b"\xf0\0\0\0\x06\0\0\0\x02\x50\x01",
        error="array has more items than fit into it",
    ),
    Case("array-of-unknown", b"\xe0\x02\x01\x01", error="array has items of no known type"),
    Case("array-too-long", b"\xe0\x04\x01\x50\x01\x02", error="array is not as long as it says"),
    Case("array-cut-off", b"\xe0\x09\x01\x50\x01", error="array is longer than what holds it"),
    Case(
        "lists-too-deep",
        b"".join(b"\xc0" + bytes((4 + 3 * (16 - at), 1)) for at in range(17)) + b"\xc0\x01\x00",
        error="values are nested deeper than 16 levels",
    ),
    Case("descriptors-too-deep", b"\x00" * 40, error="values are nested deeper than 16 levels"),
)

NULL = b"\x40"
FALSE = b"\x42"
TRUE = b"\x41"
EMPTY_LIST = b"\xc0\x01\x00"
ACCEPTED = b"\x00\x53\x24" + EMPTY_LIST
SESSION_END = symbol("session-end")

# Frame bodies as they are written: to their full length.

PERFORMATIVES = (
    Case(
        "open",
        b"\x00\x53\x10"
        + compound(
            0xC0,
            text("gw"),
            NULL,
            b"\x70\x00\x01\x00\x00",
            b"\x60\x1f\xff",
            b"\x70\x00\x03\xa9\x80",
            NULL,
            NULL,
            NULL,
            NULL,
            b"\xc1\x06\x02\xa3\x01k\x54\x01",
        ),
        Open(
            "gw",
            max_frame_size=65_536,
            channel_max=8_191,
            idle_time_out=240_000,
            properties={Symbol("k"): Int(1)},
        ),
    ),
    Case(
        "begin",
        b"\x00\x53\x11"
        + compound(
            0xC0,
            b"\x60\x00\x01",
            b"\x43",
            b"\x52\x64",
            b"\x70\x00\x00\x13\x88",
            b"\x70\x00\x03\xff\xff",
            NULL,
            NULL,
            NULL,
        ),
        Begin(0, 100, 5_000, remote_channel=1, handle_max=262_143),
    ),
    Case(
        "attach",
        b"\x00\x53\x12"
        + compound(
            0xC0,
            text("l"),
            b"\x52\x02",
            FALSE,
            b"\x50\x00",
            b"\x50\x01",
            b"\x00\x53\x28"
            + compound(
                0xC0,
                text("a"),
                b"\x43",
                SESSION_END,
                b"\x43",
                FALSE,
                NULL,
                NULL,
                compound(0xC1, symbol("f"), b"\x00" + symbol("f") + text("x > 1")),
                NULL,
                NULL,
                NULL,
            ),
            b"\x00\x53\x29"
            + compound(
                0xC0,
                NULL,
                b"\x43",
                SESSION_END,
                b"\x43",
                FALSE,
                NULL,
                b"\xe0\x04\x01\xa3\x01q",
            ),
            NULL,
            FALSE,
            b"\x43",
            b"\x80\0\0\0\0\0\x10\0\0",
            NULL,
            b"\xe0\x07\x02\xa3\x01q\x02rs",
            compound(0xC1, symbol("com.microsoft:epoch"), b"\x55\x05"),
        ),
        Attach(
            "l",
            2,
            role=False,
            snd_settle_mode=0,
            rcv_settle_mode=1,
            source=Source("a", filter={Symbol("f"): Described(Symbol("f"), "x > 1")}),
            target=Target(capabilities=["q"]),
            initial_delivery_count=0,
            max_message_size=1_048_576,
            desired_capabilities=["q", "rs"],
            properties={Symbol("com.microsoft:epoch"): 5},
        ),
    ),
    Case(
        "flow",
        b"\x00\x53\x13"
        + compound(
            0xC0,
            b"\x43",
            b"\x52\x64",
            b"\x52\x01",
            b"\x70\0\0\x13\x88",
            b"\x52\x02",
            b"\x52\x07",
            b"\x52\x32",
            NULL,
            TRUE,
            FALSE,
            NULL,
        ),
        Flow(100, 1, 5_000, 0, 2, 7, 50, drain=True),
    ),
    Case(
        "transfer",
        b"\x00\x53\x14"
        + compound(
            0xC0,
            b"\x52\x03",
            b"\x43",
            b"\xa0\x02\x00\x01",
            b"\x70\x80\x01\x37\x00",
            FALSE,
            TRUE,
            NULL,
            NULL,
            FALSE,
            FALSE,
            FALSE,
        ),
        Transfer(3, 0, b"\0\x01", 0x8001_3700, settled=False, more=True),
    ),
    Case(
        "disposition",
        b"\x00\x53\x15" + compound(0xC0, TRUE, b"\x43", b"\x52\x09", TRUE, ACCEPTED, FALSE),
        Disposition(role=True, first=0, last=9, settled=True, state=Accepted()),
    ),
    Case(
        "disposition-rejected",
        b"\x00\x53\x15"
        + compound(
            0xC0,
            TRUE,
            b"\x52\x01",
            NULL,
            TRUE,
            b"\x00\x53\x25"
            + compound(
                0xC0,
                b"\x00\x53\x1d" + compound(0xC0, symbol("amqp:not-found"), text("gone"), NULL),
            ),
            FALSE,
        ),
        Disposition(
            role=True, first=1, settled=True, state=Rejected(Error("amqp:not-found", "gone"))
        ),
    ),
    Case(
        "disposition-released",
        b"\x00\x53\x15"
        + compound(0xC0, FALSE, b"\x43", NULL, FALSE, b"\x00\x53\x26" + EMPTY_LIST, FALSE),
        Disposition(role=False, first=0, state=Released()),
    ),
    Case(
        "disposition-modified",
        b"\x00\x53\x15"
        + compound(
            0xC0,
            TRUE,
            b"\x43",
            NULL,
            FALSE,
            b"\x00\x53\x27" + compound(0xC0, TRUE, FALSE, NULL),
            FALSE,
        ),
        Disposition(role=True, first=0, state=Modified(delivery_failed=True)),
    ),
    Case(
        "disposition-received",
        b"\x00\x53\x15"
        + compound(
            0xC0,
            TRUE,
            b"\x43",
            NULL,
            FALSE,
            b"\x00\x53\x23" + compound(0xC0, b"\x52\x01", b"\x53\x02"),
            FALSE,
        ),
        Disposition(role=True, first=0, state=Received(1, 2)),
    ),
    Case(
        "disposition-of-an-extension",
        b"\x00\x53\x15"
        + compound(
            0xC0, TRUE, b"\x43", NULL, FALSE, b"\x00\x53\x34" + compound(0xC0, b"\xa0\x01t"), FALSE
        ),
        Disposition(role=True, first=0, state=Described(ULong(0x34), [b"t"])),
    ),
    Case("detach", b"\x00\x53\x16" + compound(0xC0, b"\x43", TRUE, NULL), Detach(0, closed=True)),
    Case("end", b"\x00\x53\x17" + compound(0xC0, NULL), End()),
    Case(
        "close",
        b"\x00\x53\x18"
        + compound(
            0xC0,
            b"\x00\x53\x1d"
            + compound(
                0xC0,
                symbol("amqp:connection:forced"),
                NULL,
                compound(0xC1, symbol("com.microsoft:tracking-id"), text("t")),
            ),
        ),
        Close(Error("amqp:connection:forced", None, {Symbol("com.microsoft:tracking-id"): "t"})),
    ),
    Case(
        "sasl-mechanisms",
        b"\x00\x53\x40" + compound(0xC0, b"\xe0\x11\x02\xa3\x05PLAIN\x08EXTERNAL"),
        SaslMechanisms(["PLAIN", "EXTERNAL"]),
    ),
    Case(
        "sasl-init",
        b"\x00\x53\x41" + compound(0xC0, symbol("PLAIN"), b"\xa0\x04\0u\0p", NULL),
        SaslInit("PLAIN", b"\0u\0p"),
    ),
    Case(
        "sasl-challenge",
        b"\x00\x53\x42" + compound(0xC0, b"\xa0\x01c"),
        SaslChallenge(b"c"),
    ),
    Case(
        "sasl-response",
        b"\x00\x53\x43" + compound(0xC0, b"\xa0\x01r"),
        SaslResponse(b"r"),
    ),
    Case(
        "sasl-outcome",
        b"\x00\x53\x44" + compound(0xC0, b"\x50\x01", NULL),
        SaslOutcome(1),
    ),
)

# The same as others write it: cut off behind the last field that says something, with other
# descriptors, numbers of other widths, one symbol where there may be many.

OTHER_PERFORMATIVES = (
    Case("open-of-rhea", b"\x00\x53\x10\xc0\x09\x02\xa1\x01c\xa1\x03hub", Open("c", "hub")),
    Case("open-by-ulong", b"\x00\x80" + b"\0" * 7 + b"\x10\xc0\x04\x01\xa1\x01c", Open("c")),
    Case("open-by-name", b"\x00" + symbol("amqp:open:list") + b"\xc0\x04\x01\xa1\x01c", Open("c")),
    Case("open-wide", b"\x00\x53\x10\xd0\0\0\0\x07\0\0\0\x01\xa1\x01c", Open("c")),
    Case(
        "begin-of-node",
        b"\x00\x53\x11\xc0\x0a\x04\x40\x43\x70\0\0\x08\0\x52\xff",
        Begin(0, 2_048, 255),
    ),
    Case(
        "attach-of-node",
        b"\x00\x53\x12"
        + compound(
            0xC0,
            text("s"),
            b"\x43",
            FALSE,
            NULL,
            NULL,
            b"\x00\x53\x28\x45",
            b"\x00\x53\x29" + compound(0xC0, text("$cbs")),
            NULL,
            NULL,
            b"\x43",
        ),
        Attach(
            "s", 0, role=False, source=Source(), target=Target("$cbs"), initial_delivery_count=0
        ),
    ),
    Case(
        "attach-to-a-coordinator",
        b"\x00\x53\x12"
        + compound(0xC0, text("s"), b"\x43", FALSE, NULL, NULL, NULL, b"\x00\x53\x30" + EMPTY_LIST),
        Attach("s", 0, role=False, target=Described(ULong(0x30), [])),
    ),
    Case(
        "attach-with-one-capability",
        b"\x00\x53\x12" + compound(0xC0, text("s"), b"\x43", TRUE, *[NULL] * 9, symbol("q")),
        Attach("s", 0, role=True, desired_capabilities=["q"]),
    ),
    Case(
        "disposition-short",
        b"\x00\x53\x15\xc0\x09\x05\x41\x43\x40\x41\x00\x53\x24\x45",
        Disposition(role=True, first=0, settled=True, state=Accepted()),
    ),
    Case("transfer-short", b"\x00\x53\x14\xc0\x02\x01\x43", Transfer(0)),
    Case("flow-of-a-session", b"\x00\x53\x13\xc0\x05\x04\x43\x43\x43\x43", Flow(0, 0, 0, 0)),
    Case("detach-short", b"\x00\x53\x16\xc0\x02\x01\x43", Detach(0)),
    Case("end-without-a-body", b"\x00\x53\x17\x45", End()),
    Case(
        "close-with-a-short-error",
        b"\x00\x53\x18\xc0\x0a\x01\x00\x53\x1d\xc0\x04\x01\xa3\x01e",
        Close(Error("e")),
    ),
    Case(
        "close-with-an-error-by-name",
        b"\x00\x53\x18"
        + compound(
            0xC0, b"\x00" + symbol("amqp:error:list") + compound(0xC0, symbol("e"), text("d"))
        ),
        Close(Error("e", "d")),
    ),
)

INVALID = "amqp:invalid-field"

MALFORMED_PERFORMATIVES = (
    Case("no-descriptor", b"\x40", error="frame does not begin with a performative"),
    Case("unknown", b"\x00\x53\x99\x45", error="frame holds no performative"),
    Case("unknown-name", b"\x00" + symbol("a:b") + b"\x45", error="frame holds no performative"),
    Case("a-source", b"\x00\x53\x28\x45", error="frame holds no performative"),
    Case("no-list", b"\x00\x53\x10\x41", error="a list is expected"),
    Case(
        "open-without-a-name",
        b"\x00\x53\x10\x45",
        error="amqp:open:list has no container_id",
        condition=INVALID,
    ),
    Case(
        "open-with-a-null-name",
        b"\x00\x53\x10\xc0\x02\x01\x40",
        error="amqp:open:list has no container_id",
        condition=INVALID,
    ),
    Case(
        "open-named-by-a-number",
        b"\x00\x53\x10\xc0\x02\x01\x43",
        error="amqp:open:list has a wrong container_id",
        condition=INVALID,
    ),
    Case(
        "open-with-a-large-channel-max",
        b"\x00\x53\x10" + compound(0xC0, text("c"), NULL, NULL, b"\x70\0\x01\0\0"),
        error="amqp:open:list has a wrong channel_max",
        condition=INVALID,
    ),
    Case(
        "begin-with-a-negative-window",
        b"\x00\x53\x11" + compound(0xC0, NULL, b"\x43", b"\x54\xff", b"\x43"),
        error="amqp:begin:list has a wrong incoming_window",
        condition=INVALID,
    ),
    Case(
        "begin-with-a-boolean-window",
        b"\x00\x53\x11" + compound(0xC0, NULL, b"\x43", TRUE, b"\x43"),
        error="amqp:begin:list has a wrong incoming_window",
        condition=INVALID,
    ),
    Case(
        "end-with-too-much",
        b"\x00\x53\x17" + compound(0xC0, NULL, NULL),
        error="amqp:end:list has too many fields",
        condition=INVALID,
    ),
    Case(
        "end-with-an-error-that-is-a-source",
        b"\x00\x53\x17" + compound(0xC0, b"\x00\x53\x28\x45"),
        error="amqp:end:list has a wrong error",
        condition=INVALID,
    ),
    Case(
        "end-with-an-error-without-a-condition",
        b"\x00\x53\x17" + compound(0xC0, b"\x00\x53\x1d\x45"),
        error="amqp:error:list has no condition",
        condition=INVALID,
    ),
    Case(
        "disposition-with-a-state-that-is-text",
        b"\x00\x53\x15" + compound(0xC0, TRUE, b"\x43", NULL, TRUE, text("accepted")),
        error="amqp:disposition:list has a wrong state",
        condition=INVALID,
    ),
)

MESSAGES = (
    Case("data", b"\x00\x53\x75\xa0\x02hi", Message(Data([b"hi"]))),
    Case(
        "all-sections",
        b"\x00\x53\x70"
        + compound(0xC0, TRUE, b"\x50\x07", b"\x70\0\0\x03\xe8", FALSE, b"\x43")
        + b"\x00\x53\x71"
        + compound(0xC1, symbol("d"), b"\x55\x01")
        + b"\x00\x53\x72"
        + compound(0xC1, symbol("x-opt-sequence-number"), b"\x55\x05")
        + b"\x00\x53\x73"
        + compound(
            0xC0,
            b"\x44",
            b"\xa0\x01u",
            text("/devices/d"),
            text("s"),
            text("cbs"),
            b"\x98" + UUID_BYTES,
            symbol("application/json"),
            symbol("utf-8"),
            b"\x83" + (1).to_bytes(8),
            b"\x83" + (2).to_bytes(8),
            text("g"),
            b"\x52\x03",
            text("r"),
        )
        + b"\x00\x53\x74"
        + compound(0xC1, text("status-code"), b"\x71\0\0\0\xc8")
        + b"\x00\x53\x75\xa0\x01a\x00\x53\x75\xa0\x01b"
        + b"\x00\x53\x78"
        + compound(0xC1, symbol("f"), TRUE),
        Message(
            Data([b"a", b"b"]),
            Properties(
                ULong(0),
                b"u",
                "/devices/d",
                "s",
                "cbs",
                UUID(bytes=UUID_BYTES),
                "application/json",
                "utf-8",
                1,
                2,
                "g",
                3,
                "r",
            ),
            {"status-code": Int(200)},
            {Symbol("x-opt-sequence-number"): 5},
            {Symbol("d"): 1},
            Header(durable=True, priority=7, ttl=1000),
            {Symbol("f"): True},
        ),
    ),
    Case("value", b"\x00\x53\x77\xa1\x05token", Message(AmqpValue("token"))),
    Case("value-null", b"\x00\x53\x77\x40", Message(AmqpValue(None))),
    Case(
        "sequences",
        b"\x00\x53\x76\xc0\x02\x01\x41\x00\x53\x76\xc0\x01\x00",
        Message(AmqpSequence([[True], []])),
    ),
    Case("nothing", b"", Message()),
)

OTHER_MESSAGES = (
    Case(
        "short-properties",
        b"\x00\x53\x73\xc0\x04\x01\xa1\x01m\x00\x53\x75\xb0\0\0\0\x01x",
        Message(Data([b"x"]), Properties("m")),
    ),
    Case("properties-without-a-body", b"\x00\x53\x73\x45", Message()),
    Case(
        "content-type-as-a-string",
        b"\x00\x53\x73" + compound(0xC0, *[NULL] * 6, text("t")),
        Message(properties=Properties(content_type="t")),
    ),
    Case(
        "by-name",
        b"\x00" + symbol("amqp:data:binary") + b"\xa0\x01x",
        Message(Data([b"x"])),
    ),
    Case(
        "annotations-by-strings",
        b"\x00\x53\x72" + compound(0xC1, text("operation"), text("GET")),
        Message(message_annotations={"operation": "GET"}),
    ),
)

MALFORMED_MESSAGES = (
    Case("no-section", b"\x40", error="message section has no descriptor"),
    Case("unknown-section", b"\x00\x53\x79\x45", error="message has a section of no known type"),
    Case("data-cut-off", b"\x00\x53\x75\xa0\x05hi", error="value is cut off"),
    Case("section-cut-off", b"\x00\x53", error="message is cut off or malformed"),
    Case("data-is-text", b"\x00\x53\x75\xa1\x01a", error="data section is not binary"),
    Case("sequence-is-text", b"\x00\x53\x76\xa1\x01a", error="message section is no list"),
    Case("properties-are-text", b"\x00\x53\x73\xa1\x01a", error="message section is no list"),
    Case(
        "message-id-is-a-list",
        b"\x00\x53\x73\xc0\x02\x01\x45",
        error="amqp:properties:list has a wrong message_id",
        condition=INVALID,
    ),
    Case("two-headers", b"\x00\x53\x70\x45" * 2, error="message has a section twice"),
    Case("two-bodies", b"\x00\x53\x77\x40\x00\x53\x75\xa0\x00", error="message has two bodies"),
    Case(
        "two-bodies-else", b"\x00\x53\x75\xa0\x00\x00\x53\x77\x40", error="message has two bodies"
    ),
    Case(
        "data-and-sequence", b"\x00\x53\x75\xa0\x00\x00\x53\x76\x45", error="message has two bodies"
    ),
    Case(
        "property-by-symbol-number",
        b"\x00\x53\x74\xc1\x03\x02\x43\x41",
        error="application property has a key that is no string",
    ),
    Case(
        "annotation-by-long",
        b"\x00\x53\x72\xc1\x04\x02\x55\x01\x41",
        error="annotation has a key that is no symbol",
    ),
    Case("properties-are-a-map", b"\x00\x53\x74\x45", error="application properties are no map"),
    Case("annotations-are-a-list", b"\x00\x53\x72\x45", error="annotations are no map"),
)

# Frames that no connection takes, behind a good beginning (see `OPENING`).

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
OPEN = frame(0, b"\x00\x53\x10\xc0\x09\x02\xa1\x01c\xa1\x03hub")
BEGIN = frame(0, b"\x00\x53\x11\xc0\x0a\x04\x40\x43\x70\0\0\x08\0\x52\xff")
OPENING = AMQP_HEADER + OPEN + BEGIN

FRAMING = "amqp:connection:framing-error"

REFUSED_FRAMES = (
    Case(
        "smaller-than-its-header",
        b"\0\0\0\x07\x02\0\0\0",
        error="frame header is wrong",
        condition=FRAMING,
    ),
    Case(
        "offset-into-the-header",
        b"\0\0\0\x08\x01\0\0\0",
        error="frame header is wrong",
        condition=FRAMING,
    ),
    Case(
        "offset-behind-the-frame",
        b"\0\0\0\x08\x03\0\0\0",
        error="frame header is wrong",
        condition=FRAMING,
    ),
    Case(
        "too-large",
        b"\0\x01\0\x01\x02\0\0\0",
        error="frame is larger than 65536 bytes",
        condition=FRAMING,
    ),
    Case(
        "of-the-largest-size",
        b"\xff\xff\xff\xff\x02\0\0\0",
        error="frame is larger than 65536 bytes",
        condition=FRAMING,
    ),
    Case(
        "sasl-frame",
        frame(0, b"\x00\x53\x41\x45", 1),
        error="frame is of the wrong type",
        condition=FRAMING,
    ),
    Case(
        "frame-of-unknown-type",
        frame(0, b"", 2),
        error="frame is of the wrong type",
        condition=FRAMING,
    ),
    Case(
        "second-open",
        OPEN,
        error="frame holds no performative that belongs here",
        condition="amqp:not-allowed",
    ),
    Case(
        "second-begin", BEGIN, error="channel has a session already", condition="amqp:not-allowed"
    ),
    Case(
        "begin-above-channel-max",
        frame(1024, BEGIN[8:]),
        error="channel is above channel-max",
        condition=FRAMING,
    ),
    Case(
        "end-without-a-session",
        frame(7, b"\x00\x53\x17\x45"),
        error="channel has no session",
        condition=FRAMING,
    ),
    Case("message-section", frame(0, b"\x00\x53\x75\xa0\x00"), error="a list is expected"),
    Case("cut-off-inside", frame(0, b"\x00\x53"), error="frame is cut off or malformed"),
    Case("not-a-performative", frame(0, b"\x40"), error="frame does not begin with a performative"),
    Case(
        "handle-above-handle-max",
        frame(0, b"\x00\x53\x12" + compound(0xC0, text("l"), b"\x70\0\x04\0\0", FALSE)),
        error="handle is above handle-max",
        condition=FRAMING,
    ),
    Case(
        "attach-without-a-name",
        frame(0, b"\x00\x53\x12" + compound(0xC0, NULL, b"\x43", FALSE)),
        error="amqp:attach:list has no name",
        condition=INVALID,
    ),
)
