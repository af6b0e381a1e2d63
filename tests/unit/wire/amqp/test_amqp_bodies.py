"""Performatives and their composites between bytes and Python."""

from __future__ import annotations

import pytest
from amqp_strategies import junk
from hypothesis import given

from muster.wire.amqp import bodies, decoder, performatives
from muster.wire.amqp.bodies import LAYOUTS
from muster.wire.amqp.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.performatives import (
    Begin,
    Close,
    Detach,
    Error,
    SaslInit,
    SaslResponse,
)
from vectors import amqp as vectors


@pytest.mark.parametrize("case", vectors.PERFORMATIVES + vectors.OTHER_PERFORMATIVES, ids=str)
def test_decode(case: vectors.Case) -> None:
    assert bodies.read(case.data) == (case.value, len(case.data))
    # A payload follows.
    assert bodies.read(case.data + b"\x00\x53\x75") == (case.value, len(case.data))


@pytest.mark.parametrize("case", vectors.PERFORMATIVES, ids=str)
def test_meaning_is_kept(case: vectors.Case) -> None:
    data = bodies.encode(case.value)
    assert bodies.read(data) == (case.value, len(data))


@pytest.mark.parametrize("case", vectors.PERFORMATIVES, ids=str)
def test_encode(case: vectors.Case) -> None:
    assert bodies.encode(case.value).hex(" ") == case.data.hex(" ")


@pytest.mark.parametrize("case", vectors.PERFORMATIVES + vectors.OTHER_PERFORMATIVES, ids=str)
def test_written_to_full_length(case: vectors.Case) -> None:
    """Without this the decoder of azure-eventhub fails (hub-service.md 0.3)."""
    data = bodies.encode(case.value)
    code, fields, end = bodies.read_fields(data)
    assert data[:2] == b"\x00\x53"
    assert data[3] in {0xC0, 0xD0}
    assert len(fields) == len(LAYOUTS[code].fields)
    assert end == len(data)


@pytest.mark.parametrize("case", vectors.MALFORMED_PERFORMATIVES, ids=str)
def test_malformed(case: vectors.Case) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        bodies.read(case.data)
    assert (caught.value.description, caught.value.condition) == (case.error, case.condition)


@given(junk)
def test_garbage_raises_protocol_errors_only(data: bytes) -> None:
    try:
        performative, end = bodies.read(data)
    except (RemoteProtocolError, *decoder.MALFORMED):
        return
    assert end <= len(data)
    written = bodies.encode(performative)
    assert repr(bodies.read(written)[0]) == repr(performative)


def test_repr_tells_no_secrets() -> None:
    assert "secret" not in repr(SaslInit("PLAIN", b"\0u\0secret", "h"))
    assert "secret" not in repr(SaslResponse(b"secret"))


@pytest.mark.parametrize(
    ("performative", "reason"),
    [
        (Close(Error("é")), "symbol is not ASCII"),
        (Close(Error("e", "\ud800")), "half a surrogate pair"),
        (Detach(2**32), "number is outside"),
        (Begin(None, 1, 1), "amqp:begin:list has no next_outgoing_id"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_cannot_be_written(performative: performatives.Performative, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        bodies.encode(performative)
