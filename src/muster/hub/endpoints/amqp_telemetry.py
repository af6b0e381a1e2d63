"""Telemetry over AMQP: from deliveries to the hub's log and back (hub-device.md 3.4).

A delivery is accepted when what is in it is durable. All that came over a link in one read is
appended together.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final, cast, final

from muster.errors import MusterError, TooLargeError
from muster.hub.endpoints import amqp_errors, amqp_faults, amqp_messages
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.telemetry import MAX_PENDING, MAX_PENDING_ALL, partition_of
from muster.model.fault import FaultKind
from muster.model.message import MAX_MESSAGE_SIZE
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import Error

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice, AmqpDevices
    from muster.hub.intake import Appended
    from muster.model.decision import Fact
    from muster.model.fault import Fault
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link

MAX_TRANSFER: Final = MAX_MESSAGE_SIZE + 65_536
"""Bytes of a delivery: a message with all that is around it, or a batch."""

_TAIL: Final = "messages/events"
_CREDIT: Final = 1_000


@final
class TelemetryLinks:
    """A `LinkService` for the links over which devices and modules send.

    Args:
        devices: who is connected.
    """

    def __init__(self, devices: AmqpDevices) -> None:
        self._devices = devices

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link for telemetry."""
        return isinstance(link, ReceivingLink) and self._devices.named(address, _TAIL) is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it."""
        device = await self._devices.of(client, link, address, _TAIL)
        device.add(link)
        cast("ReceivingLink", link).accept(_CREDIT, max_message_size=MAX_TRANSFER)
        return _Telemetry(device, link)


@final
class _Telemetry(LinkHandler):
    def __init__(self, device: AmqpDevice, link: Link) -> None:
        services = device.services
        self._device = device
        self._link = link
        self._intake = services.telemetry.intake(device.hub)
        self._partition = partition_of(device.ref.device_id, services.telemetry.partitions)
        self._records = amqp_messages.Records()
        self._pending = 0
        self._paused = False

    def received(self, deliveries: list[Delivery]) -> None:
        """Store messages."""
        faults = self._device.hub.faults
        fault = None if faults is None else amqp_faults.meet_telemetry(faults, self._device.ref)
        if fault is not None and not self._go_on(fault, deliveries):
            return
        stamp = self._device.stamp
        records: list[bytes] = []
        taken: list[Delivery] = []
        for delivery in deliveries:
            try:
                found = self._records.of(delivery)
            except RemoteProtocolError as error:
                delivery.reject(Error(error.condition, error.description))
            except MusterError as error:
                self._refuse(delivery, error)
            else:
                records += [stamp + record for record in found]
                taken.append(delivery)
        if records:
            self._store(records, taken, 0.0 if fault is None else fault.delay_s)
            if fault is not None and fault.kind is FaultKind.DROP:
                self._device.client.drop(fault.reason)
                return
        else:
            for delivery in taken:
                # Batches without a message.
                delivery.accept()
        self._device.touch()

    def detached(self) -> None:
        """The link is gone; what came over it is stored all the same."""
        self._resume()
        self._device.remove(self._link)

    def _go_on(self, fault: Fault, deliveries: list[Delivery]) -> bool:
        """Do what an injected fault does to messages; tell whether they are stored."""
        device = self._device
        if fault.kind is FaultKind.RESET:
            device.client.reset(fault.reason)
        elif fault.kind is FaultKind.REFUSE:
            device.client.detach(self._link, amqp_faults.error_of(device, fault))
        elif fault.kind is FaultKind.THROTTLE:
            for delivery in deliveries:
                delivery.reject(amqp_faults.error_of(device, fault))
        return fault.kind in (FaultKind.DELAY, FaultKind.DROP)

    def _store(self, records: list[bytes], deliveries: list[Delivery], delay_s: float) -> None:
        try:
            future = self._intake.append(self._partition, records)
        except MusterError as error:
            self._fail(error.message)
            return
        size = sum(map(len, records))
        telemetry = self._device.services.telemetry
        self._pending += size
        telemetry.pending += size
        future.add_done_callback(functools.partial(self._stored, deliveries, size, delay_s))
        if self._device.hub.faults is not None:
            self._device.hub.faults.when_stored(self._device.ref, records, future)
        if self._pending > MAX_PENDING or telemetry.pending > MAX_PENDING_ALL:
            self._pause()

    def _stored(
        self, deliveries: list[Delivery], size: int, delay_s: float, future: Appended
    ) -> None:
        self._pending -= size
        self._device.services.telemetry.pending -= size
        if future.cancelled() or future.exception() is not None:
            # Never accepted, so the device sends it again; the store logs what went wrong.
            self._fail("telemetry could not be stored")
            return
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, _accept, deliveries)
        else:
            _accept(deliveries)
        if self._pending <= MAX_PENDING // 2:
            self._resume()

    def _refuse(self, delivery: Delivery, error: MusterError) -> None:
        services = self._device.services
        if isinstance(error, TooLargeError):
            size = len(delivery.payload)
            facts: dict[str, Fact] = {"size": size, "limit": MAX_MESSAGE_SIZE}
            self._device.decide("message-too-large", facts, outcome="refused")
        now = services.clock.now()
        delivery.reject(amqp_errors.error(error, services.randomness.uuid(), now))

    def _fail(self, reason: str) -> None:
        self._device.client.detach(self._link, Error(amqp_errors.INTERNAL, reason))

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._device.client.reading.pause()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._device.client.reading.resume()


def _accept(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery.accept()
