"""Links and their handlers, without a connection below them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from muster.net.amqp_links import LinkHandler, Links, Reading
from muster.wire.amqp.deliveries import Delivery
from muster.wire.amqp.events import CreditChanged, LinkAttached, LinkDetached

if TYPE_CHECKING:
    from muster.wire.amqp.link import Link


class Recorder(LinkHandler):
    def __init__(self, name: str, log: list[Any]) -> None:
        self._name = name
        self._log = log

    def received(self, deliveries: list[Delivery]) -> None:
        self._log.append((self._name, [each.payload for each in deliveries]))

    def credit_changed(self) -> None:
        self._log.append((self._name, "credit"))

    def detached(self) -> None:
        self._log.append((self._name, "detached"))


def link() -> Link:
    return cast("Link", object())


def delivery(of: Link, payload: bytes) -> Delivery:
    return Delivery(cast("Any", of), 0, b"", 0, payload, settled=True)


def test_deliveries_of_one_link_that_follow_each_other_come_together() -> None:
    log: list[Any] = []
    a, b, strange = link(), link(), link()
    links: Links[Recorder] = Links(log.append)
    links.handlers[a] = Recorder("a", log)
    links.handlers[b] = Recorder("b", log)
    attached = LinkAttached(strange)
    links.received(
        [
            delivery(a, b"1"),
            delivery(a, b"2"),
            delivery(b, b"3"),
            delivery(a, b"4"),
            CreditChanged(cast("Any", a)),
            delivery(a, b"5"),
            attached,
            delivery(strange, b"nobody's"),
            delivery(a, b"6"),
        ]
    )
    assert log == [
        ("a", [b"1", b"2"]),
        ("b", [b"3"]),
        ("a", [b"4"]),
        ("a", "credit"),
        ("a", [b"5"]),
        attached,
        ("a", [b"6"]),
    ]


def test_handlers_are_told_once_that_their_link_is_gone() -> None:
    log: list[Any] = []
    a, b = link(), link()
    links: Links[Recorder] = Links(log.append)
    links.handlers[a] = Recorder("a", log)
    links.handlers[b] = Recorder("b", log)
    links.received([delivery(a, b"1"), LinkDetached(a, closed=True, error=None), delivery(a, b"2")])
    links.forget(a)
    links.forget_all()
    links.forget_all()
    assert log == [("a", [b"1"]), ("a", "detached"), ("b", "detached")]


class Socket:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def test_nobody_reads_before_all_agree() -> None:
    socket = Socket()
    reading = Reading(cast("Any", socket))
    reading.pause()
    reading.pause()
    reading.resume()
    assert socket.calls == ["pause"]
    reading.resume()
    assert socket.calls == ["pause", "resume"]
