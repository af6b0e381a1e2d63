"""Packets as values."""

import pytest

from muster.wire.mqtt.packets import Connect, Puback, Publish, Pubrec, Subscribe, Will
from vectors import mqtt as vectors


def test_equal_by_kind_and_fields() -> None:
    assert Publish("t", b"x", 1, 1) == Publish("t", b"x", 1, 1)
    assert Publish("t", b"x", 1, 1) != Publish("t", b"x", 1, 1, dup=True)
    assert Puback(1) != Puback(2)
    assert Puback(1) != Pubrec(1)
    assert Puback(1) != 1


def test_all_vectors_differ() -> None:
    packets = [case.packet for case in vectors.PACKETS]
    for at, packet in enumerate(packets):
        assert packet not in packets[:at]


def test_repr_tells_no_secrets() -> None:
    packet = Connect("d1", "host/d1/", b"sig=secret", will=Will("t", b"last words"))
    assert repr(packet) == (
        "Connect(clean_session=True, client_id='d1', keep_alive_s=60, password=<10 bytes>, "
        "protocol_level=4, protocol_name='MQTT', username='host/d1/', "
        "will=Will(payload=<10 bytes>, qos=0, retain=False, topic='t'))"
    )
    assert repr(Puback(7)) == "Puback(packet_id=7)"
    assert repr(Subscribe(1, [("a/#", 1)])) == "Subscribe(filters=[('a/#', 1)], packet_id=1)"


def test_packets_hold_nothing_but_their_fields() -> None:
    with pytest.raises(AttributeError):
        Puback(1).extra = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(Puback(1))
