"""A device that connects, subscribes, and is told what is published to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from benchmarks.load.client import Client
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Publish, Suback, Subscribe

if TYPE_CHECKING:
    from collections import Counter

    from benchmarks.load.job import Device
    from benchmarks.load.link import Dialler


class Subscriber(Client):
    """One device; `ready` when its subscription is there."""

    __slots__ = ("_decoder", "_device")
    topic_filter: ClassVar[str] = ""

    def __init__(self, dialler: Dialler, device: Device, tally: Counter[str]) -> None:
        super().__init__(dialler, tally)
        self._device = device
        self._decoder = codec.Decoder()

    def secured(self) -> None:
        device = self._device
        connect = Connect(
            client_id=device.client_id,
            username=device.username,
            password=device.password.encode(),
            clean_session=True,
            keep_alive_s=1_100,
        )
        self.write(codec.encode(connect))

    def received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, Publish):
                self.published(packet)
            elif isinstance(packet, Connack) and packet.return_code:
                self.closed(f"CONNACK {packet.return_code}")
            elif isinstance(packet, Connack):
                self.write(codec.encode(Subscribe(1, [self.subscription()])))
            elif isinstance(packet, Suback):
                self.ready.set_result(None)

    def subscription(self) -> tuple[str, int]:
        """Return topic filter and QoS."""
        return self.topic_filter, 0

    def published(self, packet: Publish) -> None:
        """Take what was published."""
        raise NotImplementedError
