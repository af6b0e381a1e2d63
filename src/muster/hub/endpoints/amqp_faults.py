"""What injected faults do to devices and modules on AMQP.

A fault that breaks the connection breaks it for all who share it, as a broken network would.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from muster.errors import UnavailableError
from muster.faults.live import failure
from muster.hub.endpoints import amqp_errors
from muster.model.fault import FaultKind, FaultPart, FaultTransport
from muster.wire.amqp import addresses
from muster.wire.amqp.errors import CONNECTION_FORCED
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import Error

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice
    from muster.hub.fault_injection import HubFaults
    from muster.model.fault import Fault
    from muster.model.identity import IdentityRef
    from muster.wire.amqp.link import Link

_ATTACH: Final = frozenset({FaultKind.REFUSE, FaultKind.DELAY, FaultKind.THROTTLE, FaultKind.RESET})
_TELEMETRY: Final = frozenset(FaultKind)
_REQUEST: Final = frozenset({FaultKind.DELAY, FaultKind.THROTTLE})

_FROM_CLIENT: Final = {
    "$cbs": FaultPart.CBS_REQUEST,
    "messages/events": FaultPart.TELEMETRY,
    "twin": FaultPart.TWIN_REQUEST,
    "methods/devicebound": FaultPart.METHOD_ANSWER,
}
_TO_CLIENT: Final = {
    "$cbs": FaultPart.CBS_ANSWER,
    "messages/devicebound": FaultPart.DEVICEBOUND,
    "twin": FaultPart.TWIN_ANSWER,
    "methods/devicebound": FaultPart.METHOD_REQUEST,
}
"""What links are for, by the ends of their addresses."""


def part_of(link: Link) -> FaultPart | None:
    """Return which part of AMQP a link is."""
    path = addresses.parse(link.address).path.lower()
    tails = _FROM_CLIENT if isinstance(link, ReceivingLink) else _TO_CLIENT
    return next(
        (part for tail, part in tails.items() if path == tail or path.endswith(f"/{tail}")), None
    )


async def meet_attach(faults: HubFaults, client: AmqpClient, ref: IdentityRef, link: Link) -> None:
    """Do what a fault does to an attach.

    Raises:
        MusterError: it is refused.
    """
    fault = faults.choose(ref, _ATTACH, FaultTransport.AMQP, part_of(link))
    if fault is None:
        return
    if fault.kind is FaultKind.DELAY:
        await asyncio.sleep(fault.delay_s)
    elif fault.kind is FaultKind.RESET:
        client.reset(fault.reason)
        raise UnavailableError("The client is gone.")
    else:
        raise failure(fault)


async def meet_request(faults: HubFaults, ref: IdentityRef) -> None:
    """Do what a fault does to a request over a link.

    Raises:
        MusterError: that is the answer.
    """
    fault = faults.choose(ref, _REQUEST, FaultTransport.AMQP)
    if fault is None:
        return
    if fault.kind is FaultKind.THROTTLE:
        raise failure(fault)
    await asyncio.sleep(fault.delay_s)


def meet_telemetry(faults: HubFaults, ref: IdentityRef) -> Fault | None:
    """Return the fault that messages meet which came together."""
    return faults.choose(ref, _TELEMETRY, FaultTransport.AMQP)


def end(device: AmqpDevice, fault: Fault) -> None:
    """End what is there of an identity, as a fault says that has begun."""
    client = device.client
    if fault.kind is FaultKind.RESET:
        client.reset(fault.reason)
        return
    device.ended(fault.reason)
    error = error_of(device, fault)
    match fault.part:
        case None:
            device.leave(error)
        case FaultPart.SHUTDOWN:
            client.close()
        case FaultPart.CONNECTION:
            client.close(Error(CONNECTION_FORCED, "A fault was injected on purpose."))
        case FaultPart.SESSION:
            for session in {link.session for link in device.links}:
                client.end(session, error)
        case FaultPart.CBS_REQUEST | FaultPart.CBS_ANSWER:
            _detach(client, list(client.handlers), fault, error)
        case _:
            _detach(client, device.links, fault, error)


def error_of(device: AmqpDevice, fault: Fault) -> Error:
    """Return what a client is told whom a fault refuses or throttles."""
    services = device.services
    tracking_id = services.randomness.uuid()
    return amqp_errors.error(failure(fault), tracking_id, services.clock.now())


def _detach(client: AmqpClient, links: list[Link], fault: Fault, error: Error) -> None:
    for link in links:
        if part_of(link) is fault.part:
            client.detach(link, error)
