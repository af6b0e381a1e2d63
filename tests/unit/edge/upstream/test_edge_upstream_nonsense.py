"""A hub that answers nonsense: a session ends the connection or goes on, and never fails itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from muster.edge.upstream.base import HubError, NoLinkError
from muster.model.nesting import MAX_DEPTH
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Pingresp, Puback, Publish, Suback, Unsuback
from support.edge import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.edge.upstream.session_subject import Subject
    from unit.edge.upstream.upstream_peer import Peer

DESIRED = "$iothub/twin/PATCH/properties/desired/?$version=7"
CALL = "$iothub/methods/POST/"
BODIES = [
    *(b"", b" ", b"null", b"nonsense", b"\xff\xfe", b"[]", b"{}", b"1e999", b'"\\ud800"'),
    b"[" * 5000 + b"]" * 5000,
    b'{"desired":' * 700 + b"{}" + b"}" * 700,
    *(b'{"$version":%s}' % each for each in (b"-1", b"1e300", b'"7"', b"null", b"9" * 40)),
    b'{"modules":{"a":' + b"x" * 200_000,
    json.dumps({"desired": {"$version": 3}, "reported": {}, "x": "y" * 200_000}).encode(),
]
TOPICS = [
    *(DESIRED, DESIRED.partition("?")[0], "nobody/knows", "/", " ", "\u0001"),
    *(f"$iothub/twin/res/{each}" for each in ("200/?$rid=1", "200/?$rid=1&$version=x", "200/")),
    *(f"$iothub/twin/res/{each}/?$rid=2" for each in ("999", "2000", "\u0662\u0660\u0660", "")),
    *(f"{CALL}{each}/?$rid=1" for each in ("m", "", "a/b", "%2e%2e%2f\u202e\n'\";--", "m" * 5000)),
    *(f"{CALL}m/{each}" for each in ("", "?$rid=", "?$rid=a/b?c&d", "?$rid=" + "9" * 60_000)),
    *(f"devices/d1/messages/devicebound/{each}" for each in ("", "a=b&%zz&=&&&", "x" * 60_000)),
    "devices/other/messages/devicebound/",
]


def packet(moments: random.Random) -> bytes:
    """Return a packet that a server might send, and now and then some other bytes in it."""
    number = moments.choice([1, 2, 3, 7, 0xFFFF])
    qos = moments.randrange(2)
    publish = Publish(moments.choice(TOPICS), moments.choice(BODIES), qos, number if qos else None)
    codes = [moments.choice([0, 1, 2, 0x80])] * moments.randrange(1, 5)
    others = [Puback(number), Suback(number, codes), Unsuback(number), Pingresp(), Connack(5)]
    data = codec.encode(moments.choice([publish] * 8 + others))
    if moments.random() < 0.1:
        cut = moments.randrange(len(data))
        data = data[:cut] + moments.randbytes(moments.randrange(3)) + data[cut + 1 :]
    return data


async def test_any_nonsense(peer: Peer, begin: Callable[..., Subject]) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    subject = begin()
    with capture_logs() as log:
        for _ in range(200):
            await subject.connected()
            line = peer.line
            line.write(packet(moments))
            # What was cut off takes this for its end.
            line.write(codec.encode(Pingresp()))
            # A length that is nonsense may keep the answer from being read.
            with contextlib.suppress(HubError, NoLinkError, TimeoutError):
                async with asyncio.timeout(0.05):
                    await subject.session.twin()
    assert [entry for entry in log if entry["log_level"] == "error"] == []
    # And then it comes to its senses.
    count = len(peer.lines)
    peer.line.drop()
    peer.twin = 200, b'{"desired":{"$version":4},"reported":{"$version":2}}'
    await until(lambda: len(peer.lines) > count)
    await subject.connected()
    assert (await subject.session.twin())["desired"] == {"$version": 4}


@pytest.mark.parametrize("version", [b"-1", b"1.5", b'"7"', b"null", b"true", b"[]", b"9" * 40])
@pytest.mark.parametrize("section", ["desired", "reported"])
async def test_a_version_that_is_none(
    peer: Peer, begin: Callable[..., Subject], section: str, version: bytes
) -> None:
    twin = {"desired": b"1", "reported": b"1", section: version}
    peer.twin = (
        200,
        b'{"desired":{"$version":%(desired)s},"reported":{"$version":%(reported)s}}'
        % {name.encode(): value for name, value in twin.items()},
    )
    subject = begin()
    await subject.connected()
    with pytest.raises(HubError, match="version") as nonsense:
        await subject.session.twin()
    assert nonsense.value.status == 502


async def test_a_twin_that_is_nested_without_end(peer: Peer, begin: Callable[..., Subject]) -> None:
    deep = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    peer.twin = 200, b'{"desired":%s,"reported":{}}' % deep
    subject = begin()
    await subject.connected()
    with pytest.raises(HubError) as nonsense:
        await subject.session.twin()
    assert nonsense.value.status == 502
    peer.line.say(Publish(DESIRED, b'{"b":%s}' % deep))
    await until(lambda: len(peer.lines) > 1)
    assert subject.owner.patches == []


async def test_a_method_whose_answer_could_not_be_sent(
    peer: Peer, begin: Callable[..., Subject]
) -> None:
    subject = begin()
    await subject.connected()
    line = peer.line
    for request_id in ("a" * (65_535 - len(f"{CALL}m/?$rid=")),):
        line.say(Publish(f"{CALL}m/?$rid={request_id}", b"{}"))
        line.say(Publish(f"{CALL}m/?$rid={request_id}", b"nonsense"))
    line.say(Publish(f"{CALL}m/?$rid=2", b"{}"))
    await until(lambda: len(line.method_answers()) == 1)
    assert len(peer.lines) == 1
