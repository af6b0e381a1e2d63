"""The server end of a connection: headers, SASL, open, close, time."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peers import Client, encoded
from amqp_strategies import cut

from muster.wire.amqp import bodies, performatives, sasl
from muster.wire.amqp.connection import MAX_FIRST_FRAME_SIZE, ServerConnection
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.events import LinkAttached
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY_FRAME, SASL_HEADER, frame
from muster.wire.amqp.limits import ConnectionLimits
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Source,
    Target,
)
from muster.wire.amqp.types import Symbol
from vectors import amqp as vectors


def sasl_frame(said: performatives.SaslFrame) -> bytes:
    return frame(0, bodies.encode(said), frame_type=1)


class TestHeaders:
    def test_without_sasl(self) -> None:
        client = Client(opened=False)
        assert client.receive(AMQP_HEADER) == []
        assert client.header() == AMQP_HEADER
        assert client.connection.mechanism is None

    def test_sasl(self) -> None:
        client = Client(opened=False)
        assert client.receive(SASL_HEADER) == []
        assert client.header() == SASL_HEADER
        assert client.said() == [SaslMechanisms(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"])]

    @pytest.mark.parametrize(
        "data", [b"AMQP\x02\x01\x00\x00", b"AMQP\x00\x00\x09\x01", b"GET / HT", b"\x16\x03" * 4]
    )
    def test_unknown(self, data: bytes) -> None:
        client = Client(opened=False)
        with pytest.raises(RemoteProtocolError, match="protocol header is unknown") as caught:
            client.receive(data)
        assert caught.value.condition == "amqp:connection:framing-error"
        assert client.connection.outgoing() == SASL_HEADER
        assert client.connection.closed

    def test_sasl_is_refused_where_it_is_not_offered(self) -> None:
        connection = ServerConnection("server", mechanisms=())
        with pytest.raises(RemoteProtocolError):
            connection.receive(SASL_HEADER)
        assert connection.outgoing() == AMQP_HEADER


class TestSasl:
    def dial(self, *said: performatives.SaslFrame, rest: bytes = b"") -> tuple[Client, list[Any]]:
        client = Client(opened=False)
        events = client.receive(SASL_HEADER + b"".join(map(sasl_frame, said)) + rest)
        client.header()
        assert isinstance(client.said()[0], SaslMechanisms)
        return client, events

    @pytest.mark.parametrize("mechanism", ["ANONYMOUS", "MSSBCBS", "EXTERNAL", "PLAIN"])
    def test_accepted(self, mechanism: str) -> None:
        client, events = self.dial(SaslInit(mechanism, b"\0u\0p", "hub"))
        assert events == [SaslInit(mechanism, b"\0u\0p", "hub")]
        assert client.connection.suspended
        client.connection.sasl_accept()
        assert client.said() == [SaslOutcome(0)]
        assert client.connection.mechanism == mechanism
        assert client.receive(AMQP_HEADER + encoded(Open("c"))) == [Open("c")]
        assert client.header() == AMQP_HEADER

    def test_everything_at_once(self) -> None:
        """As azure-eventhub does after SASL, and a client might before."""
        rest = AMQP_HEADER + encoded(Open("c")) + encoded(Begin(0, 1, 1))
        client, events = self.dial(SaslInit("ANONYMOUS"), rest=rest)
        assert events == [SaslInit("ANONYMOUS")]
        assert client.connection.buffered == len(rest)
        client.connection.sasl_accept()
        assert client.receive(b"") == [Open("c")]
        assert client.receive(b"") == []
        client.connection.open()
        assert client.receive(b"") == []
        said = client.connection.outgoing()
        assert said.startswith(sasl_frame(SaslOutcome(0)) + AMQP_HEADER)
        assert client.connection.buffered == 0

    def test_refused(self) -> None:
        client, _ = self.dial(SaslInit("PLAIN", b"\0u\0p"))
        client.connection.sasl_refuse()
        assert client.said() == [SaslOutcome(1)]
        assert client.connection.closed
        client.connection.sasl_accept()
        client.connection.open()
        assert client.said() == []

    def test_mechanism_that_is_not_offered(self) -> None:
        client = Client(opened=False)
        assert client.receive(SASL_HEADER + sasl_frame(SaslInit("SCRAM-SHA-1"))) == []
        client.header()
        assert client.said()[1:] == [SaslOutcome(1)]
        assert client.connection.closed

    def test_several_steps(self) -> None:
        """As the mechanism TPM has them (dps.md 4.8)."""
        connection = ServerConnection("server", mechanisms=["TPM"])
        assert connection.receive(SASL_HEADER + sasl_frame(SaslInit("TPM", b"id"))) == [
            SaslInit("TPM", b"id")
        ]
        for step in (b"1", b"2"):
            connection.sasl_challenge(step)
            assert sasl_frame(SaslChallenge(step)) in connection.outgoing()
            assert connection.receive(sasl_frame(SaslResponse(step))) == [SaslResponse(step)]
        connection.sasl_accept(b"data")
        assert connection.outgoing() == sasl_frame(SaslOutcome(0, b"data"))

    @pytest.mark.parametrize(
        "said", [SaslResponse(b"r"), SaslOutcome(0), SaslMechanisms(["X"])], ids=repr
    )
    def test_frames_that_do_not_belong_here(self, said: performatives.SaslFrame) -> None:
        client = Client(opened=False)
        with pytest.raises(RemoteProtocolError, match="SASL frame does not belong here"):
            client.receive(SASL_HEADER + sasl_frame(said))

    def test_second_init(self) -> None:
        client, _ = self.dial(SaslInit("ANONYMOUS"), SaslInit("ANONYMOUS"))
        client.connection.sasl_challenge(b"")
        with pytest.raises(RemoteProtocolError, match="SASL frame does not belong here"):
            client.receive(b"")

    def test_sasl_again(self) -> None:
        client, _ = self.dial(SaslInit("ANONYMOUS"))
        client.connection.sasl_accept()
        with pytest.raises(RemoteProtocolError, match="protocol header is unknown"):
            client.receive(SASL_HEADER)

    def test_empty_frame(self) -> None:
        client = Client(opened=False)
        with pytest.raises(RemoteProtocolError, match="frame is empty"):
            client.receive(SASL_HEADER + frame(0, frame_type=1))

    @pytest.mark.parametrize(
        ("response", "found"),
        [
            (b"\0u\0p", ("u", "p", "")),
            (b"z\0\xc3\xa9\0", ("é", "", "z")),
            (b"", None),
            (None, None),
            (b"u\0p", None),
            (b"\0u\0p\0", None),
            (b"\0\xff\0p", None),
        ],
    )
    def test_plain(self, response: bytes | None, found: tuple[str, str, str] | None) -> None:
        credentials = sasl.plain_credentials(response)
        if found is None:
            assert credentials is None
        else:
            assert credentials == sasl.PlainCredentials(*found)
            assert "password" not in repr(credentials)


class TestOpen:
    def test_answered(self) -> None:
        client = Client(opened=False)
        client.receive(AMQP_HEADER)
        client.header()
        assert client.send(Open("c", "hub", max_frame_size=100)) == [
            Open("c", "hub", max_frame_size=100)
        ]
        assert client.connection.suspended
        client.connection.open(properties={Symbol("k"): "v"})
        assert client.said() == [
            Open(
                "server",
                max_frame_size=65_536,
                channel_max=1_023,
                idle_time_out=240_000,
                properties={Symbol("k"): "v"},
            )
        ]
        assert client.connection.opened
        assert client.connection.remote == Open("c", "hub", max_frame_size=100)
        # No peer may take less.
        assert client.connection.peer_max_frame_size == 512

    def test_pipelined(self) -> None:
        """Nobody needs to wait for our answers."""
        client = Client(opened=False)
        sender = Attach("s", 0, role=False, target=Target("a"), initial_delivery_count=0)
        receiver = Attach("r", 1, role=True, source=Source("b"))
        assert client.receive(
            AMQP_HEADER
            + encoded(Open("c"))
            + encoded(Begin(0, 9, 9), channel=1)
            + encoded(sender, channel=1)
            + encoded(receiver, channel=1)
            + encoded(Flow(9, 0, 9, None, 1, link_credit=5), channel=1)
        ) == [Open("c")]
        client.connection.open()
        events = client.receive(b"")
        links = [event.link for event in events if isinstance(event, LinkAttached)]
        assert len(events) == 3
        assert [type(link) for link in links] == [ReceivingLink, SendingLink]
        assert isinstance(links[1], SendingLink)
        assert links[1].credit == 5
        client.header()
        frames = client.frames()
        assert [(channel, type(said)) for channel, said, _ in frames] == [(0, Open), (1, Begin)]
        assert frames[1][1].remote_channel == 1

    def test_refused(self) -> None:
        """As DPS refuses after SASL (dps.md 1.4)."""
        client = Client(opened=False)
        client.receive(AMQP_HEADER)
        client.send(Open("c"))
        error = Error("amqp:unauthorized-access", "{}")
        client.connection.close(error, properties={Symbol("com.microsoft:open-error"): "x"})
        client.header()
        opened, closed = client.said()
        assert opened.properties == {Symbol("com.microsoft:open-error"): "x"}
        assert closed == Close(error)
        assert client.connection.closed
        assert client.send(Begin(0, 1, 1)) == []

    @pytest.mark.parametrize("said", [Begin(0, 1, 1), Close(), End()], ids=repr)
    def test_must_be_first(self, said: performatives.Performative) -> None:
        client = Client(opened=False)
        with pytest.raises(RemoteProtocolError, match="the first frame is not open") as caught:
            client.receive(AMQP_HEADER + encoded(said))
        assert caught.value.condition == "amqp:not-allowed"
        client.header()
        assert [type(said) for said in client.said()] == [Open, Close]

    def test_strangers_get_little_memory(self) -> None:
        client = Client(opened=False)
        client.receive(AMQP_HEADER)
        data = encoded(Open("c" * MAX_FIRST_FRAME_SIZE))
        with pytest.raises(RemoteProtocolError, match="larger than 16384 bytes"):
            client.receive(data[:8])

    def test_too_much_before_the_answer(self) -> None:
        client = Client(opened=False)
        client.receive(AMQP_HEADER + encoded(Open("c")))
        for _ in range(16):
            assert client.receive(bytes(65_536)) == []
        with pytest.raises(RemoteProtocolError, match="too much was sent before the answer"):
            client.receive(b"x")
        assert client.connection.buffered == 0


@pytest.mark.parametrize("case", vectors.REFUSED_FRAMES, ids=str)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_refused_frames(case: vectors.Case, byte_by_byte: bool) -> None:  # noqa: FBT001
    client = Client()
    chunks = cut(case.data, range(len(case.data))) if byte_by_byte else [case.data]
    with pytest.raises(RemoteProtocolError) as caught:  # noqa: PT012 - any of the chunks may fail
        for chunk in chunks:
            assert client.receive(chunk) == []
    assert (caught.value.description, caught.value.condition) == (case.error, case.condition)
    assert client.said() == [Close(Error(case.condition, case.error))]
    assert client.connection.closed
    assert client.connection.buffered == 0
    assert client.receive(case.data) == []


def test_events_before_a_fault_are_told() -> None:
    client = Client()
    attach = Attach("s", 0, role=False, target=Target("a"))
    with pytest.raises(RemoteProtocolError) as caught:
        client.receive(encoded(attach) + frame(0, b"\x40"))
    assert [type(event) for event in caught.value.events] == [LinkAttached]
    (event,) = caught.value.events
    assert isinstance(event, LinkAttached)
    event.link.detach()
    assert [type(said) for said in client.said()] == [Close]


def test_links_that_are_detached_behind_their_session() -> None:
    """As azure-eventhub does."""
    client = Client()
    client.receiver()
    client.send(End(), Detach(1, closed=True))
    assert client.said()[-1] == End()
    client.send(Begin(0, 1_000, 1_000))
    assert [type(said) for said in client.said()] == [Begin]


def test_closed_by_the_client() -> None:
    client = Client()
    link = client.sender()
    (delivery,) = client.transfer(0)
    delivery.accept()  # type: ignore[union-attr]
    error = Error("amqp:internal-error", "x")
    assert client.send(Close(error)) == [Close(error)]
    assert [type(said) for said in client.said()] == [Disposition, Close]
    assert client.connection.closed
    assert not link.attached
    assert client.transfer(1) == []


def test_closed_by_the_owner() -> None:
    client = Client()
    link = client.receiver(credit=0)
    sent = link.send(b"x")
    client.connection.close(Error("amqp:connection:forced"))
    client.connection.close()
    assert client.said() == [Close(Error("amqp:connection:forced"))]
    assert client.connection.closed
    assert not client.connection.opened
    # Nothing that is called now says anything.
    link.accept()
    link.send(b"y")
    link.drained()
    link.detach()
    sent.settle()
    link.session.end()
    client.connection.sasl_challenge(b"")
    client.connection.open()
    assert client.connection.outgoing() == b""
    assert client.grant(5) == []


def test_closed_before_anything_was_said() -> None:
    client = Client(opened=False)
    client.connection.close(Error("amqp:connection:forced"))
    assert client.woken == 1
    assert client.connection.outgoing() == b""
    assert client.connection.closed


def test_wakes_once_until_asked() -> None:
    client = Client()
    link = client.attach_sender()
    before = client.woken
    link.accept(1)
    link.session.end()
    assert client.woken == before + 1
    client.connection.outgoing()
    client.connection.close()
    assert client.woken == before + 2


class TestTick:
    def test_silent_client_is_closed(self) -> None:
        client = Client(idle_time_out=None)
        connection = client.connection
        assert connection.tick(0) == 60.0
        assert connection.tick(60) == 120.0
        client.receive(EMPTY_FRAME)
        assert connection.tick(120) == 180.0
        assert connection.tick(479) == 539.0
        assert client.said() == []
        assert connection.tick(480) == 0.0
        assert connection.closed
        (said,) = client.said()
        assert said.error.condition == "amqp:resource-limit-exceeded"
        assert connection.tick(500) == 0.0

    def test_silence_does_not_count_while_nothing_is_read(self) -> None:
        client = Client()
        connection = client.connection
        connection.tick(0)
        assert connection.tick(1_000, reading=False) == 1_060.0
        assert connection.tick(1_300) == 1_360.0
        assert connection.tick(1_360) == 0.0

    def test_says_that_it_is_alive(self) -> None:
        client = Client(idle_time_out=60_000)
        connection = client.connection
        assert connection.tick(0) == 15.0
        assert client.said() == []
        assert connection.tick(15) == 30.0
        assert client.said() == [EMPTY_FRAME]
        # What is said since is as good.
        link = client.sender()
        link.session.end()
        client.said()
        connection.tick(30)
        assert client.said() == []
        connection.tick(45)
        assert client.said() == [EMPTY_FRAME]

    def test_at_least_at_half_of_what_the_client_wants(self) -> None:
        client = Client(idle_time_out=60_000)
        last_said = now = 0.0
        for _ in range(50):
            due = client.connection.tick(now)
            if client.said():
                assert now - last_said <= 30.0
                last_said = now
            client.receive(EMPTY_FRAME)
            now = due

    def test_not_mad_about_it(self) -> None:
        assert Client(idle_time_out=1).connection.tick(0) == 0.25
        assert Client(idle_time_out=0).connection.tick(0) == 60.0

    def test_before_open_there_is_nothing_to_say(self) -> None:
        connection = ServerConnection("server", limits=ConnectionLimits(idle_time_out=6_000))
        assert connection.tick(0) == 1.5
        assert connection.tick(1.5) == 3.0
        assert connection.outgoing() == b""
