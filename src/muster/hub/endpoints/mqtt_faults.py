"""What injected faults do to the packets of an MQTT connection.

A connection has this only if it was heard while fault injection was on; no other comes here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.model.fault import FaultKind, FaultTransport
from muster.wire.mqtt.packets import Publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.hub.fault_injection import HubFaults
    from muster.model.identity import IdentityRef
    from muster.net.mqtt import MqttPeer
    from muster.wire.mqtt.packets import Packet

_ALWAYS: Final = frozenset({FaultKind.REFUSE, FaultKind.DELAY, FaultKind.RESET})
_WITH_TELEMETRY: Final = frozenset(FaultKind)

REQUEST_FAULTS: Final = frozenset({FaultKind.THROTTLE})
"""What is done to a request by itself, and answered."""


@final
class PacketFaults:
    """The faults of one connection.

    Args:
        ref: whose it is.
        peer: the connection.
        telemetry: topic of the identity's telemetry, without a property bag.
        keep: stores a message that will not be acknowledged.
        release: takes the packets that were held back.

    Attributes:
        releasing: packets that were held back are being taken.
    """

    __slots__ = (
        "_handle",
        "_held",
        "_keep",
        "_peer",
        "_ref",
        "_release",
        "_telemetry",
        "releasing",
    )

    def __init__(
        self,
        ref: IdentityRef,
        peer: MqttPeer,
        *,
        telemetry: str,
        keep: Callable[[Publish], None],
        release: Callable[[list[Packet]], None],
    ) -> None:
        self._ref = ref
        self._peer = peer
        self._telemetry = telemetry
        self._keep = keep
        self._release = release
        self._held: list[Packet] = []
        self._handle: asyncio.TimerHandle | None = None
        self.releasing = False

    @property
    def holding(self) -> bool:
        """Whether packets are held back; nothing more is to be received meanwhile."""
        return self._handle is not None

    def meet(self, faults: HubFaults | None, packets: list[Packet]) -> list[Packet]:
        """Do what a fault does to a batch of packets; return those to go on with.

        Args:
            faults: those of the hub, `None` when there are none any more.
            packets: in order.
        """
        if self.releasing:
            return packets
        if self.holding:
            # They were under way when reading was paused.
            self._held += packets
            return []
        if faults is None:
            return packets
        messages = [
            each for each in packets if isinstance(each, Publish) and self._is_telemetry(each)
        ]
        kinds = _WITH_TELEMETRY if messages else _ALWAYS
        fault = faults.choose(self._ref, kinds, FaultTransport.MQTT)
        if fault is None:
            return packets
        if fault.kind is FaultKind.DELAY:
            self._held = packets
            self._handle = asyncio.get_running_loop().call_later(fault.delay_s, self.let_go)
        elif fault.kind is FaultKind.RESET:
            self._peer.reset(fault.reason)
        else:
            if fault.kind is FaultKind.DROP:
                for message in messages:
                    self._keep(message)
            self._peer.close(fault.reason)
        return []

    def let_go(self) -> None:
        """Take what was held back, now."""
        if self._handle is None:
            return
        self._handle.cancel()
        self._handle = None
        held, self._held = self._held, []
        self.releasing = True
        try:
            self._release(held)
        finally:
            self.releasing = False

    def _is_telemetry(self, packet: Publish) -> bool:
        topic = packet.topic
        return topic == self._telemetry or topic.startswith(f"{self._telemetry}/")
