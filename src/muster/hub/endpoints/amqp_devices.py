"""Devices and modules on AMQP connections: logged in with their first link, gone with their last.

A connection may carry many of them (hub-device.md 3.8), each with its own links; for
`muster.hub.connections` every one is a `Link`. An attach waits for its identity to be logged in,
which happens once however many links come together.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.errors import UnavailableError
from muster.hub.authentication import RefusedError, chain_of
from muster.hub.connections import EXPIRY_GRACE_S, TAKEN_OVER, TOKEN_EXPIRED
from muster.hub.endpoints import amqp_errors, amqp_faults
from muster.hub.endpoints.amqp_methods import MethodChannel
from muster.hub.endpoints.amqp_twin import TwinChannel
from muster.model.fault import FaultTransport
from muster.model.identity import wire_time
from muster.model.message import Stamp, encode_stamp
from muster.net.amqp_links import auth_chain_of
from muster.net.peer import SLOW_READER
from muster.wire.amqp.performatives import Error

if TYPE_CHECKING:
    from muster.hub.connection import Connection
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_grants import Grant
    from muster.hub.endpoints.session_services import SessionServices
    from muster.hub.hubs import Hub
    from muster.model.auth_chain import AuthChain
    from muster.model.decision import Fact
    from muster.model.fault import Fault
    from muster.model.identity import IdentityRef
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.link import Link

_MODEL_ID: Final = "com.microsoft:model-id"
_LONGEST_MODEL_ID: Final = 256


@final
class AmqpDevices:
    """Who is connected over AMQP.

    Args:
        services: what sessions of devices share.
    """

    def __init__(self, services: SessionServices) -> None:
        self.services = services
        self._live: dict[tuple[AmqpClient, IdentityRef], AmqpDevice] = {}
        self._coming: dict[tuple[AmqpClient, IdentityRef], asyncio.Future[AmqpDevice]] = {}

    def named(self, address: Address, tail: str) -> tuple[str, str] | None:
        """Return device ID and module ID (`''` for none) in an address that ends in `tail`."""
        device = address.match(f"devices/*/{tail}")
        if device is not None:
            return device[0], ""
        module = address.match(f"devices/*/modules/*/{tail}")
        return None if module is None else (module[0], module[1])

    async def of(self, client: AmqpClient, link: Link, address: Address, tail: str) -> AmqpDevice:
        """Return the identity an address names, logged in.

        The caller adds the link at once.

        Raises:
            RefusedError: it may not connect.
        """
        device_id, module_id = self.named(address, tail) or ("", "")
        identity = f"{device_id}/{module_id}" if module_id else device_id
        chain = chain_of(identity, auth_chain_of(link))
        grant, ref = client.grants.identity(address, device_id, module_id, chain)
        if grant.hub.faults is not None:
            await amqp_faults.meet_attach(grant.hub.faults, client, ref, link)
        key = (client, ref)
        live = self._live.get(key)
        if live is not None:
            return live
        coming = self._coming.get(key)
        if coming is not None:
            return await asyncio.shield(coming)
        coming = self._coming[key] = asyncio.get_running_loop().create_future()
        try:
            device = await self._connect(client, link, grant, ref, chain)
        except Exception as error:
            coming.set_exception(error)
            # Looked at, for the case that nobody else waits.
            coming.exception()
            raise
        else:
            coming.set_result(device)
            return device
        finally:
            coming.cancel()
            del self._coming[key]

    def forget(self, device: AmqpDevice) -> None:
        """It is not connected any more."""
        self._live.pop((device.client, device.ref), None)

    async def _connect(
        self,
        client: AmqpClient,
        link: Link,
        grant: Grant,
        ref: IdentityRef,
        chain: AuthChain | None,
    ) -> AmqpDevice:
        services = self.services
        connections = services.connections
        attempt = connections.begin(ref, chain)
        try:
            login = await client.grants.login(grant, ref, chain)
            await connections.wait_turn(ref)
            model_id = str(link.properties.get(_MODEL_ID) or "")[:_LONGEST_MODEL_ID]
            if model_id != login.model_id:
                await services.twins.set_model(ref, model_id)
            if client.over:
                # It did not wait; it must not take over the connection that is there.
                raise UnavailableError("The client is gone.")
            stamp = Stamp(ref.device_id, ref.module_id, login.generation_id, login.scope, model_id)
            device = AmqpDevice(
                self,
                client,
                grant.hub,
                ref,
                generation_id=login.generation_id,
                stamp=encode_stamp(stamp),
            )
            older = connections.get(ref)
            taken_over = older is not None and older.link.alive
            connection = connections.attach(attempt, device, login.expires_at, login.chain)
        finally:
            connections.abandon(attempt)
        if connection is None:
            raise RefusedError("The identity was disabled or deleted.", "device-disabled")
        device.connection = connection
        self._live[client, ref] = device
        client.grants.hold(ref, device, grant)
        if taken_over:
            device.decide("taken-over", {"remote": client.peer.remote})
        return device


@final
class AmqpDevice:
    """One identity on one connection: a `Link`, and a `Holder` of its grant.

    Attributes:
        client: the connection.
        hub: where it lives.
        ref: who.
        stamp: the first part of every record it sends.
        connection: its live session; `None` when that is over.
        feed: keeps it from missing changes of its twin; `None` where that is off.
        methods: how its methods reach it.
        twin: how changes of its twin do.
    """

    __slots__ = (
        "_devices",
        "_links",
        "client",
        "connection",
        "feed",
        "hub",
        "methods",
        "ref",
        "services",
        "stamp",
        "twin",
    )

    def __init__(
        self,
        devices: AmqpDevices,
        client: AmqpClient,
        hub: Hub,
        ref: IdentityRef,
        *,
        generation_id: str,
        stamp: bytes,
    ) -> None:
        self._devices = devices
        self._links: set[Link] = set()
        self.services = devices.services
        self.client = client
        self.hub = hub
        self.ref = ref
        self.stamp = stamp
        self.connection: Connection | None = None
        self.methods = MethodChannel()
        self.twin = TwinChannel()
        self.feed = devices.services.feed(
            hub, ref, generation_id, send=self._send_desired, heard_at=self._heard_at
        )

    # For the handlers of its links.

    def add(self, link: Link) -> None:
        """Take one more link.

        Raises:
            UnavailableError: the session ended meanwhile.
        """
        if self.connection is None:
            raise UnavailableError("The session of the identity has ended.")
        self._links.add(link)

    def remove(self, link: Link) -> None:
        """A link is gone; with the last one the identity is."""
        self._links.discard(link)
        if not self._links:
            self._end()

    @property
    def links(self) -> list[Link]:
        """Its links."""
        return list(self._links)

    def leave(self, error: Error, *, drop: bool = False) -> None:
        """End the identity's links, and the connection if nobody else is on it.

        Args:
            error: what the client is told.
            drop: close the connection without a word.
        """
        client, links = self.client, self.links
        self._end()
        if not client.alone(links):
            for link in links:
                client.detach(link, error)
        elif drop:
            client.drop(error.description or "")
        else:
            client.close(error)

    def touch(self) -> None:
        """Note that the client did something."""
        if self.connection is not None:
            self.connection.touch(self.services.clock.time())

    def takes_methods(self) -> None:
        """Tell whoever waits that the client may have begun to take methods."""
        if self.connection is not None:
            self.connection.takes_methods()

    def decide(self, check: str, facts: dict[str, Fact], *, outcome: str = "closed") -> None:
        """Record why something of the identity was ended or refused."""
        self.client.decide(self.hub.host, self.ref.text, check, facts, outcome=outcome)

    def ended(self, reason: str) -> None:
        """Record why the identity's links, or some of them, are ended."""
        self.decide("connection-closed", {"reason": reason, "remote": self.client.peer.remote})

    # Link

    @property
    def alive(self) -> bool:
        """Whether the identity is still there."""
        return self.connection is not None and not self.client.over

    def close(self, reason: str) -> None:
        """End the identity's links, and the connection if nobody else is on it."""
        if reason == TAKEN_OVER:
            self.leave(amqp_errors.TAKEN_OVER, drop=True)
        else:
            if reason != TOKEN_EXPIRED:
                self.ended(reason)
            self.leave(Error(amqp_errors.UNAUTHORIZED, f"{reason[:1].upper()}{reason[1:]}."))

    def fault_began(self, fault: Fault) -> bool:
        """End what an injected fault ends."""
        if fault.transport not in (FaultTransport.ANY, FaultTransport.AMQP):
            return False
        amqp_faults.end(self, fault)
        return True

    def desired_changed(self, body: bytes, version: int) -> None:
        """Send a change of desired properties to a client that subscribed."""
        if self.feed is None:
            self._send_desired(body, version)
        elif self.twin.subscribed is not None:
            self.feed.changed(body, version)

    def takes_method(self, name: str) -> bool:
        """Tell whether the client may be sent a direct method; there is no choice of names."""
        return self.methods.ready

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method."""
        self.methods.invoke(request_id, name, payload)

    # Holder

    def renewed(self, expires_at: int) -> None:
        """Live as long as the newer token."""
        if self.connection is not None:
            self.connection.renew(expires_at)

    def _send_desired(self, body: bytes, version: int) -> None:
        if not self.twin.changed(self.client, body, version):
            self.ended(f"{SLOW_READER}, too many changes of the twin wait")

    def _heard_at(self) -> float:
        return self.client.peer.last_received

    def _end(self) -> None:
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.feed is not None:
            self.feed.close()
        connection.detach()
        self._devices.forget(self)
        self.client.grants.let_go(self.ref, self)
        expires_at = connection.expires_at
        if self.services.clock.time() >= expires_at + EXPIRY_GRACE_S:
            self.decide("connection-expired", {"token_expiry": wire_time(expires_at)})
