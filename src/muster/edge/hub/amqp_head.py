"""AMQP connections of modules and leaf devices to the edge hub (edge.md 6.3, hub-device.md 3).

The frame around all links: SASL, tokens, attaching and refusing. Nothing is bound to a connection:
each link is of the identity in its address, for which there must be a token, or a certificate.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.auth import audience, sas_token
from muster.edge.hub import amqp_links
from muster.edge.hub.amqp_errors import UNAUTHORIZED, error_of
from muster.edge.hub.amqp_identity import AmqpIdentity
from muster.edge.hub.authentication import NEVER_EXPIRES, Proof
from muster.edge.hub.members import local
from muster.edge.identity import HUB
from muster.errors import MusterError, UnauthorizedError, UnavailableError
from muster.net.amqp_links import Links, Reading, auth_chain_of
from muster.net.tasks import spawn
from muster.wire.amqp import addresses
from muster.wire.amqp.events import LinkAttached
from muster.wire.amqp.performatives import Error, Open, SaslInit, SaslResponse
from muster.wire.amqp.sasl import PLAIN, plain_credentials

if TYPE_CHECKING:
    from muster.edge.hub.amqp_handler import LinkHandler
    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef
    from muster.net.amqp import AmqpPeer
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link

PROOF_S: Final = 60.0
"""Seconds a client has to attach a link that it may have."""
REFUSAL_S: Final = 1.0
"""Before a refusal is said, to slow down those who only come again."""
MAX_TOKENS: Final = 1_000
"""Tokens of one connection."""

_log = structlog.get_logger(__name__)


@final
class AmqpHead:
    """An `AmqpAcceptor` for modules and leaf devices.

    Args:
        services: of the edge hub.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def accept(self, connection: ServerConnection, peer: AmqpPeer) -> AmqpClient:
        """Wait for the client's first words."""
        return AmqpClient(self._services, connection, peer)


@final
class AmqpClient:
    """An `AmqpOwner`.

    Args:
        services: of the edge hub.
        connection: what is answered with.
        peer: the socket below it.

    Attributes:
        handlers: of all links that are attached.
        reading: from the client.
        turn: whoever has it checks a token; attaches wait for the tokens that came before them.
    """

    def __init__(self, services: Services, connection: ServerConnection, peer: AmqpPeer) -> None:
        self._services = services
        self._connection = connection
        self._peer = peer
        self._tokens: dict[IdentityRef, tuple[str, int]] = {}
        self._identities: dict[IdentityRef, AmqpIdentity] = {}
        self._closed = False
        self._links: Links[LinkHandler] = Links(self._take)
        self.handlers = self._links.handlers
        self.reading = Reading(peer)
        self.turn = asyncio.Lock()

    @property
    def over(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._closed or self._connection.closed

    @property
    def congested(self) -> bool:
        """Whether enough is on its way to the client; handlers are told when it is not."""
        return self._peer.congested

    # For handlers and identities.

    async def put_token(self, text: str) -> IdentityRef:
        """Take a token; the identity is the one in its own resource.

        Raises:
            UnauthorizedError, ForbiddenError: it is not good.
            UnavailableError: nobody can tell.
        """
        token = sas_token.parse(text)
        resource = audience.hub_audience(token.resource)
        if resource.device_id is None:
            raise UnauthorizedError("The token names no device.", code="wrong-resource")
        ref = local(resource.device_id, resource.module_id or "")
        admission = await self._services.authenticator.login(ref, Proof(text))
        if ref not in self._tokens and len(self._tokens) >= MAX_TOKENS:
            raise UnavailableError("The connection has too many tokens.", code="too-many-tokens")
        self._tokens[ref] = (text, admission.expires_at)
        return ref

    def expires_at(self, prover: IdentityRef | None) -> int:
        """Return when the token of an identity expires, unix seconds; `None` for a certificate."""
        return NEVER_EXPIRES if prover is None else self._tokens[prover][1]

    def detach(self, link: Link, error: Error | None = None) -> None:
        """Detach a link from this side; its handler is told."""
        link.detach(error)
        self._links.forget(link)

    def leave(self, identity: AmqpIdentity, reason: str) -> None:
        """End all links of an identity, and the connection when it was alone."""
        self._identities.pop(identity.ref, None)
        error = Error(UNAUTHORIZED, reason)
        if not self._identities:
            # Without a word of AMQP, upon which clients come back at once.
            self._peer.drop(reason)
            self._links.forget_all()
            return
        for link in identity.links:
            self.detach(link, error)

    def gone(self, identity: AmqpIdentity) -> None:
        """Note that the last link of an identity is gone."""
        if self._identities.get(identity.ref) is identity:
            del self._identities[identity.ref]

    # AmqpOwner

    def received(self, events: list[Event]) -> None:
        """Take what the client says."""
        self._links.received(events)

    def writable(self) -> None:
        """More can be sent."""
        for link, handler in list(self.handlers.items()):
            if link.attached:
                handler.credit_changed()

    def closed(self, reason: str) -> None:
        """The connection is over, and with it all links."""
        self._closed = True
        self._links.forget_all()
        _log.info("amqp connection closed", reason=reason, remote=self._peer.remote)

    # Within.

    def _take(self, event: Event) -> None:
        match event:
            case LinkAttached():
                spawn(self._attach(event.link), "edge hub amqp attach")
            case Open():
                self._connection.open()
                asyncio.get_running_loop().call_later(PROOF_S, self._expect_proof)
            case SaslInit():
                self._sasl(event)
            case SaslResponse():
                # None of the mechanisms asks for one.
                self._connection.sasl_refuse()

    def _sasl(self, init: SaslInit) -> None:
        if init.mechanism == PLAIN:
            spawn(self._plain(init), "edge hub amqp sasl")
        else:
            # The other mechanisms say nothing; tokens follow.
            self._connection.sasl_accept()

    async def _plain(self, init: SaslInit) -> None:
        credentials = plain_credentials(init.initial_response)
        try:
            if credentials is None:
                raise UnauthorizedError("There are no credentials.")
            async with self.turn:
                ref = await self.put_token(credentials.password)
            if credentials.user.rpartition("@")[0] != ref.text:
                raise UnauthorizedError("The user name does not go with the token.")
        except MusterError as error:
            _log.warning("client refused", reason=error.message, remote=self._peer.remote)
            await asyncio.sleep(REFUSAL_S)
            self._connection.sasl_refuse()
        else:
            self._connection.sasl_accept()

    def _expect_proof(self) -> None:
        if not self.over and not self._tokens and not self._identities:
            self._connection.close(Error(UNAUTHORIZED, "The connection has no valid token."))
            self._links.forget_all()

    async def _attach(self, link: Link) -> None:
        address = addresses.parse(link.address)
        try:
            async with self.turn:
                """Tokens that came before are checked now."""
            handler = await self._handler(link, address)
        except MusterError as error:
            _log.warning(
                "link refused",
                address=link.address[:512],
                reason=error.message,
                remote=self._peer.remote,
            )
            await asyncio.sleep(REFUSAL_S)
            link.detach(error_of(error))
            return
        if self.over or not link.attached:
            handler.detached()
        else:
            self.handlers[link] = handler
            handler.begin()

    async def _handler(self, link: Link, address: Address) -> LinkHandler:
        if address.match("$cbs") is not None:
            return amqp_links.cbs(self, link)
        purpose = amqp_links.purpose(link, address)
        ref = local(purpose.device_id, purpose.module_id)
        identity = await self._identity(ref, auth_chain_of(link))
        return purpose.attach(identity, link)

    async def _identity(self, ref: IdentityRef, chain: str) -> AmqpIdentity:
        """Return an identity of this connection, logged in.

        Args:
            ref: who it is.
            chain: over which an edge hub below this device speaks for it, `''` for none.
        """
        async with self.turn:
            known = self._identities.get(ref)
            if known is not None:
                return known
            prover = self._prover(ref, chain)
            token = None if prover is None else self._tokens[prover][0]
            spoken_for = prover is not None and prover.module_id == HUB
            proof = Proof(token, self._peer.certificate, chain if spoken_for else "")
            services = self._services
            admission = await services.authenticator.login(ref, proof)
            if services.clients.full and services.clients.get(ref) is None:
                raise UnavailableError("The edge hub has as many clients as it takes.")
            if self.over:
                # It did not wait; it must not take over the connection that is there.
                raise UnavailableError("The client is gone.")
            identity = self._identities[ref] = AmqpIdentity(
                services, self, ref, prover=prover, over=admission.over
            )
            services.clients.attach(identity)
            _log.info("client connected", identity=ref.text, transport=self._peer.transport)
            return identity

    def _prover(self, ref: IdentityRef, chain: str) -> IdentityRef | None:
        """Return whose token stands for an identity: its own, its device's, its edge hub's."""
        speaker = local(chain.rpartition(";")[2], HUB)
        known = (ref, local(ref.device_id), speaker)
        return next((each for each in known if each in self._tokens), None)
