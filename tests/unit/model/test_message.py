"""The format of stored messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.model.message import (
    BUILT_IN,
    FLAG_RETAIN,
    FLAG_WILL,
    SOURCES,
    AuthScope,
    Delivery,
    Message,
    Stamp,
    decode,
    encode_head,
    encode_stamp,
    routed,
)

ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=128)
stamps = st.builds(
    Stamp,
    device_id=ids,
    module_id=ids,
    generation_id=ids,
    auth_scope=st.sampled_from([*AuthScope, None]),
    model_id=st.text(max_size=200),
    source=st.sampled_from(SOURCES),
)
deliveries = st.lists(
    st.builds(Delivery, st.integers(0, 2**32 - 1), st.text(max_size=300)), min_size=1, max_size=20
).map(tuple)


@given(stamps, st.text(max_size=2000), st.booleans(), st.booleans(), st.binary(max_size=2000))
def test_what_is_written_is_read(
    stamp: Stamp,
    bag: str,
    retain: bool,  # noqa: FBT001
    will: bool,  # noqa: FBT001
    body: bytes,
) -> None:
    record = encode_stamp(stamp) + encode_head(bag, FLAG_RETAIN * retain | FLAG_WILL * will) + body
    assert decode(record) == Message(stamp, retain, will, bag, body)


@given(stamps, st.text(max_size=500), st.binary(max_size=500), deliveries)
def test_what_routing_decided_is_read(
    stamp: Stamp, bag: str, body: bytes, where: tuple[Delivery, ...]
) -> None:
    record = encode_stamp(stamp) + encode_head(bag, FLAG_WILL) + body
    found = decode(routed(record, decode(record), where))
    assert found == Message(stamp, False, True, bag, body, where)
    for delivery in where:
        same = next(each for each in where if each.endpoint == delivery.endpoint)
        assert found.delivery(delivery.endpoint) == same


@given(stamps, deliveries, st.data())
def test_a_routed_record_cut_short_is_refused(
    stamp: Stamp, where: tuple[Delivery, ...], data: st.DataObject
) -> None:
    record = encode_stamp(stamp) + encode_head("a=b")
    whole = routed(record, decode(record), where)
    cut = data.draw(st.integers(0, len(whole) - 1))
    if where != (Delivery(BUILT_IN),):
        with pytest.raises(ValueError, match="record"):
            decode(whole[:cut])


def test_what_goes_to_the_built_in_endpoint_only_stays_as_it_came() -> None:
    record = encode_stamp(Stamp("d", "", "1", AuthScope.DEVICE)) + encode_head("a=1") + b"body"
    message = decode(record)
    assert routed(record, message, message.deliveries) is record
    assert message.delivery(BUILT_IN) == Delivery(BUILT_IN)
    assert message.delivery(1) is None


@given(st.binary(max_size=300))
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    for record in (garbage, b"\x01\x00\x00" + garbage, b"\x02\x00\x00" + garbage):
        try:
            decode(record)
        except ValueError:
            continue


@given(stamps, st.data())
def test_a_record_cut_short_in_its_head_is_refused(stamp: Stamp, data: st.DataObject) -> None:
    record = encode_stamp(stamp) + encode_head("a=b")
    cut = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(ValueError, match="record"):
        decode(record[:cut])


def test_version_1_on_the_disk() -> None:
    # These bytes are in the logs of running services: a change needs a new version.
    stamp = Stamp("d", "m", "7", AuthScope.HUB, "x")
    record = encode_stamp(stamp) + encode_head("a=1", FLAG_RETAIN) + b"body"
    assert record == b"\x01\x00\x02\x01d\x01m\x017\x00\x01x\x01\x00\x03a=1body"


def test_version_2_on_the_disk() -> None:
    stamp = Stamp("d", "", "", None, source="twinChangeEvents")
    record = encode_stamp(stamp) + encode_head("a=1") + b"body"
    where = (Delivery(BUILT_IN), Delivery(7, "site=x"))
    assert routed(record, decode(record), where) == (
        b"\x02\x03\xff\x01d\x00\x00\x00\x00\x00\x00\x03a=1"
        b"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x06site=xbody"
    )


def test_sources_are_numbers_on_the_disk() -> None:
    assert SOURCES == (
        "Telemetry",
        "deviceConnectionStateEvents",
        "deviceLifecycleEvents",
        "twinChangeEvents",
    )


def test_other_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="version"):
        decode(b"\x03\x00\x00")
    with pytest.raises(ValueError, match="source"):
        decode(b"\x01\x63\x00")


def test_the_auth_method_is_the_documented_json() -> None:
    stamp = Stamp("d", "", "1", AuthScope.DEVICE)
    assert stamp.auth_method == (
        '{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
    )
