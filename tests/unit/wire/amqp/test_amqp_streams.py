"""The server end of a connection: any chunking, damage and garbage."""

from __future__ import annotations

from typing import Any

from amqp_peers import encoded
from amqp_strategies import changes, cut, cuts, damage, junk
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.wire.amqp.connection import ServerConnection
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.events import LinkAttached
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, FrameBuffer, frame
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Disposition,
    End,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
    Transfer,
)


def conversation() -> list[bytes]:
    """Return what a client says in a long life, in pieces after which it waits for an answer."""
    said = [
        Begin(0, 100, 100),
        Attach("s", 0, role=False, target=Target("a"), initial_delivery_count=0),
        Attach("r", 1, role=True, source=Source("a")),
        Flow(100, 0, 100, 0, 1, 0, 3),
        Flow(100, 0, 100, 0, None, echo=True),
    ]
    opening = AMQP_HEADER + encoded(Open("c"))
    attaching = b"".join(map(encoded, said))
    data = b""
    for number in range(6):
        transfer = Transfer(0, number, b"t", 0, settled=number % 2 == 0)
        data += encoded(transfer, b"x" * number * 50)
    data += encoded(Transfer(0, 6, b"t", 0, more=True), b"a" * 100)
    data += EMPTY_FRAME
    data += encoded(Transfer(0), b"b" * 100)
    data += encoded(Disposition(role=True, first=0, last=9, settled=True))
    return [opening, attaching, data + encoded(End()) + encoded(Close())]


CONVERSATION = conversation()


def play(chunks: list[bytes]) -> tuple[list[str], str, bytes]:
    """Return what an obliging owner sees, the fault if there is one, and what the server says."""
    connection = ServerConnection("server", limits=ConnectionLimits(links=8, channel_max=3))
    seen: list[str] = []
    said: list[bytes] = []
    fault = ""
    for chunk in [*chunks, b"", b""]:
        try:
            # What is read ends at an answer that is due, so events never wait for the next chunk.
            events = connection.receive(chunk)
        except RemoteProtocolError as error:
            events = error.events
            fault = f"{error.condition}: {error.description}"
        for event in events:
            seen.append(describe(event))
            answer(connection, event)
        said.append(connection.outgoing())
        assert connection.buffered < 70_000
        if connection.closed:
            break
    return seen, fault, b"".join(said)


def describe(event: Any) -> str:
    if isinstance(event, LinkAttached):
        return f"attached {event.link.name}"
    if hasattr(event, "link"):
        payload = getattr(event, "payload", b"")
        return f"{type(event).__name__} {event.link.name} {payload!r}"
    return repr(event)


def answer(connection: ServerConnection, event: Any) -> None:
    if isinstance(event, SaslInit):
        connection.sasl_accept()
    elif isinstance(event, Open):
        connection.open()
    elif isinstance(event, LinkAttached):
        link = event.link
        if isinstance(link, ReceivingLink):
            # More than is sent, so that no flow depends on how the stream is cut.
            link.accept(100)
        else:
            link.accept()
            link.send(b"message")


@given(cuts)
def test_chunks_do_not_matter(places: list[int]) -> None:
    expected = play(CONVERSATION)
    found = play([piece for part in CONVERSATION for piece in cut(part, places)])
    assert found[:2] == expected[:2]
    assert [seen.split()[0] for seen in expected[0]] == [
        "Open(container_id='c',",
        *["attached"] * 2,
        "CreditChanged",
        *["Delivery"] * 7,
        "OutcomeReceived(sent=Sent(delivery_id=0,",
        *["LinkDetached"] * 2,
        "Close(error=None)",
    ]
    assert sorted(split(found[2])) == sorted(split(expected[2]))


def split(data: bytes) -> list[bytes]:
    """Return the frames behind the header, but flows: they say how far it had come by then."""
    buffer = FrameBuffer()
    buffer.feed(data)
    buffer.header()
    frames = []
    while (one := buffer.next(1 << 20)) is not None:
        if one[2][2] != 0x13:
            frames.append(one[2])
    return frames


@settings(max_examples=200)
@given(changes, cuts)
def test_damaged_streams_raise_protocol_errors_only(
    damages: list[tuple[int, int]], places: list[int]
) -> None:
    play([piece for part in CONVERSATION for piece in cut(damage(part, damages), places)])


@given(st.booleans(), st.lists(junk, max_size=5))
def test_garbage_raises_protocol_errors_only(begins: bool, chunks: list[bytes]) -> None:  # noqa: FBT001
    framed = [frame(0, chunk) for chunk in chunks]
    play([*CONVERSATION[:2], *framed] if begins else chunks)
