"""Hypothesis strategies for whatever MQTT 3.1.1 can carry."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import strategies as st

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
from vectors import mqtt as vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
topics = st.text(
    st.characters(exclude_characters="\0#+", exclude_categories=["Cs"]), min_size=1, max_size=40
)
levels = st.one_of(st.just("+"), st.text("ab$é", max_size=5))
filters = st.builds(
    lambda levels, tail: "/".join(levels) + tail,
    st.lists(levels, min_size=1, max_size=5),
    st.sampled_from(["", "/#"]),
).filter(bool)
packet_ids = st.integers(1, 65535)
# Past 127 bytes and, seldom, past 16383, where the remaining length gets longer.
payloads = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda unit, times: unit * times, st.binary(max_size=9), st.integers(0, 4000)),
)
publishes = st.one_of(
    st.builds(Publish, topics, payloads, retain=st.booleans()),
    st.builds(
        Publish,
        topics,
        payloads,
        st.integers(1, 2),
        packet_ids,
        retain=st.booleans(),
        dup=st.booleans(),
    ),
)
# Few topics, so that the decoder meets the one it keeps.
telemetry = st.builds(
    Publish,
    st.sampled_from(["devices/d1/messages/events/", "devices/d1/messages/events/a=1", "t"]),
    payloads,
    st.just(1),
    packet_ids,
)
wills = st.builds(Will, topics, st.binary(max_size=40), st.integers(0, 2), retain=st.booleans())


def _connect(
    client_id: str,
    username: str | None,
    password: bytes | None,
    *,
    clean_session: bool,
    **rest: object,
) -> Connect:
    return Connect(
        client_id,
        username,
        None if username is None else password,
        clean_session=clean_session or not client_id,
        **rest,  # type: ignore[arg-type]
    )


connects = st.builds(
    _connect,
    texts,
    st.none() | texts,
    st.none() | st.binary(max_size=200),
    clean_session=st.booleans(),
    keep_alive_s=st.integers(0, 65535),
    will=st.none() | wills,
)
subscribes = st.builds(
    Subscribe,
    packet_ids,
    st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1, max_size=5),
)
unsubscribes = st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=5))
from_clients: st.SearchStrategy[Packet] = st.one_of(
    telemetry,
    publishes.filter(lambda publish: publish.qos < 2),
    subscribes,
    unsubscribes,
    st.builds(Puback, packet_ids),
    st.builds(Pingreq),
)
packets: st.SearchStrategy[Packet] = st.one_of(
    from_clients,
    publishes,
    connects,
    st.one_of(
        [st.builds(kind, packet_ids) for kind in (Puback, Pubrec, Pubrel, Pubcomp, Unsuback)]
    ),
    st.builds(Suback, packet_ids, st.lists(st.sampled_from([0, 1, 2, 128]), min_size=1)),
    st.builds(Connack, st.integers(0, 5)) | st.just(Connack(0, session_present=True)),
    st.sampled_from([Pingresp(), Disconnect()]),
)

_SEEDS = [
    case.data
    for case in (*vectors.PACKETS, *vectors.MALFORMED, *vectors.MALFORMED_FROM_SERVERS)
    if len(case.data) < 500
]


def _damage(parts: Sequence[bytes], changes: Sequence[tuple[int, int]]) -> bytes:
    data = bytearray(b"".join(parts))
    for position, value in changes:
        data[position % len(data)] = value
    return bytes(data)


bytes_like_packets = st.one_of(
    st.binary(max_size=300),
    st.builds(
        _damage,
        st.lists(st.sampled_from(_SEEDS), min_size=1, max_size=6),
        st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3),
    ),
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the data in chunks, cut at these places modulo its length."""
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


cuts = st.lists(st.integers(0, 70_000), max_size=12)
