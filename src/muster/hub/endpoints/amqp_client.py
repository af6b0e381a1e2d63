"""One AMQP connection to the hubs: who is on it, and which link is whose.

The frame around all links: SASL, tokens, attaching and refusing, expiry. What comes over a link is
its handler's business (`amqp_link`). Nothing is bound to the connection: back ends, devices and
modules share one as they like (hub-device.md 3.8).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.errors import MusterError
from muster.hub.authentication import RefusedError
from muster.hub.connections import CONNECT_PATIENCE_S
from muster.hub.endpoints import amqp_errors
from muster.hub.endpoints.amqp_grants import Grants
from muster.hub.endpoints.amqp_link import NO_ADDRESS
from muster.hub.endpoints.amqp_plain import check_user
from muster.model.identity import wire_time
from muster.model.pacing import Pace
from muster.net.amqp import CLOSED_BY_OWNER
from muster.net.amqp_links import Links, Reading
from muster.net.peer import ORDINARY_ENDS
from muster.net.tasks import spawn
from muster.net.timers import NO_SLOT, running_wheel
from muster.wire.amqp import addresses, messages
from muster.wire.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from muster.wire.amqp.events import LinkAttached
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.performatives import Error, Open, SaslInit, SaslResponse
from muster.wire.amqp.sasl import PLAIN, SYS_TEMP, PlainCredentials, plain_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from muster.hub.endpoints.amqp_grants import Grant
    from muster.hub.endpoints.amqp_link import LinkHandler, LinkService
    from muster.hub.endpoints.amqp_services import AmqpServices
    from muster.model.decision import Fact
    from muster.net.amqp import AmqpPeer
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.connection import ServerConnection
    from muster.wire.amqp.events import Event
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.messages import Message
    from muster.wire.amqp.session import Session

PROOF_S: Final = 60.0
"""Seconds a client has to bring a token, or use its certificate, after it has opened the
connection."""
ATTACH_PACE: Final = Pace(rate=500.0, burst=1_000)
"""Attaches of one connection; a pool of the C# SDK attaches several for each of 995 devices."""

ATTACHES_AT_ONCE: Final = 32
"""Attaches of one connection that are looked at together."""

MAX_REQUESTS: Final = 100
"""Requests of one connection, tokens and messages to devices too, that are looked at together;
until there are fewer, it is not read from. Nobody must fill our memory."""
MAX_ANSWERS: Final = 100
"""Answers to such requests that may wait for a client's credit."""

_EXPIRY_CHECK_S: Final = 1.0
"""Seconds between two looks at what expires, at least."""


@final
class AmqpClient:
    """An `AmqpOwner`.

    Args:
        services: shared by all connections.
        connection: what is answered with.
        peer: the socket below it.

    Attributes:
        grants: what its tokens, or its certificate, allow.
        handlers: of all links that are attached.
        peer: the socket below it.
        connection: the wire connection.
        reading: from the client.
        turn: whoever has it checks a token; attaches wait for the tokens that came before them.
    """

    __slots__ = (
        "_arrival",
        "_attaching",
        "_closed",
        "_links",
        "_requests",
        "_services",
        "_waiting",
        "connection",
        "grants",
        "handlers",
        "peer",
        "reading",
        "timer_slot",
        "turn",
    )

    def __init__(
        self, services: AmqpServices, connection: ServerConnection, peer: AmqpPeer
    ) -> None:
        self._services = services
        self._arrival = 0.0
        # Thousands of attaches in one breath must not keep everybody else from their turn.
        self._attaching = asyncio.Semaphore(ATTACHES_AT_ONCE)
        self._closed = False
        self._links: Links[LinkHandler] = Links(self._take)
        self._requests = 0
        self._waiting: list[Callable[[], None]] = []
        self.connection = connection
        self.peer = peer
        self.grants = Grants(services, peer.certificate)
        self.handlers = self._links.handlers
        self.reading = Reading(peer)
        self.turn = asyncio.Lock()
        self.timer_slot = NO_SLOT

    # For link services and handlers.

    @property
    def over(self) -> bool:
        """Whether the connection is closed or closing."""
        return self._closed or self.connection.closed

    def detach(self, link: Link, error: Error | None = None) -> None:
        """Detach a link from this side; its handler is told."""
        link.detach(error)
        self._links.forget(link)

    def error(self, failure: Exception, tracking_id: str = "") -> Error:
        """Return what a client is told about a failure.

        Args:
            failure: what happened.
            tracking_id: under which it is on record; none for a new one.
        """
        services = self._services
        tracking_id = tracking_id or services.randomness.uuid()
        return amqp_errors.error(failure, tracking_id, services.clock.now())

    def fail(self, link: Link, failure: Exception) -> None:
        """Detach a link because of a failure.

        Raises:
            Exception: the failure, if it is none that was meant to happen; for our own log.
        """
        self.detach(link, self.error(failure))
        if not isinstance(failure, MusterError):
            raise failure

    def close(self, error: Error | None = None) -> None:
        """Close the connection, with all its links; their handlers are told at once."""
        self.connection.close(error)
        self._links.forget_all()

    def drop(self, reason: str) -> None:
        """Close the connection without a word; the client comes back. Handlers are told at once."""
        self.peer.drop(reason)
        self._over(reason)

    def reset(self, reason: str) -> None:
        """Break the connection off. Handlers are told at once."""
        self.peer.reset(reason)
        self._over(reason)

    def end(self, session: Session, error: Error) -> None:
        """End a session, with all its links; their handlers are told at once."""
        session.end(error)
        for link in [link for link in self.handlers if link.session is session]:
            self._links.forget(link)

    def alone(self, links: Collection[Link]) -> bool:
        """Tell whether nobody is on the connection but who has these links."""
        return len(self.grants) <= 1 and not any(
            link not in links and not handler.auxiliary for link, handler in self.handlers.items()
        )

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back once when `peer.congested`, which was true, is not any more."""
        self._waiting.append(callback)

    def request_began(self) -> None:
        """Note that a request is looked at; `request_ended` must follow."""
        self._requests += 1
        if self._requests == MAX_REQUESTS:
            self.reading.pause()

    def request_ended(self) -> None:
        """Note that one is answered."""
        self._requests -= 1
        if self._requests == MAX_REQUESTS - 1:
            self.reading.resume()

    def answer(self, link: SendingLink, answer: Message) -> None:
        """Send an answer to a request, settled; a client that takes none loses the link."""
        waiting = sum(
            each.queued
            for each, handler in self.handlers.items()
            if handler.auxiliary and isinstance(each, SendingLink)
        )
        if waiting < MAX_ANSWERS:
            link.send(messages.encode(answer), settled=True)
        else:
            self.detach(link, Error(RESOURCE_LIMIT_EXCEEDED, "Too many answers wait."))

    async def put_token(self, text: str) -> Grant:
        """Take a token, when it is the caller's turn; see `Grants.put`."""
        grant = await self.grants.put(text)
        self._wake_at_expiry()
        return grant

    def refused(self, host: str, subject: str, error: RefusedError) -> tuple[str, float]:
        """Record a refusal, unless there are too many like it.

        Args:
            host: of the hub.
            subject: who or what was refused.
            error: why.

        Returns:
            Its tracking ID, and the seconds by which the answer is to be held back.
        """
        services = self._services
        tracking_id = services.randomness.uuid()
        host, subject = host[:256].lower(), subject[:256]
        delay_s = services.refusals.reserve((host, subject), services.clock.monotonic())
        if delay_s is None:
            # Whoever keeps this up is on record already.
            return tracking_id, CONNECT_PATIENCE_S
        facts = {**error.facts, "remote": self.peer.remote, "transport": self.peer.transport}
        services.decide(host, subject, error.check, facts, tracking_id=tracking_id)
        return tracking_id, delay_s

    def decide(
        self,
        host: str,
        subject: str,
        check: str,
        facts: dict[str, Fact],
        *,
        outcome: str = "closed",
    ) -> None:
        """Record why a link or connection is ended, or something refused."""
        self._services.decide(host, subject, check, facts, outcome=outcome)

    # AmqpOwner

    def received(self, events: list[Event]) -> None:
        """Take what the client says."""
        self._links.received(events)

    def writable(self) -> None:
        """Tell those who wait for it."""
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def closed(self, reason: str) -> None:
        """The connection is over, and with it all links."""
        self._closed = True
        running_wheel().stop(self)
        self._over(reason)
        self._waiting.clear()

    # Timed

    def timer_expired(self, now: float) -> float:
        """End what was allowed by tokens whose time is up; close when nothing is left."""
        if self.over:
            return 0.0
        clock = self._services.clock
        over = self.grants.expire(clock.time())
        for grant in over:
            self._end_links(grant)
        if not len(self.grants):
            error = Error(amqp_errors.UNAUTHORIZED, "The connection has no valid token.")
            self.close(error)
            return 0.0
        end = self.grants.next_end()
        return 0.0 if end is None else now + max(end - clock.time(), _EXPIRY_CHECK_S)

    # Within.

    def _take(self, event: Event) -> None:
        match event:
            case LinkAttached():
                self._attached(event.link)
            case Open():
                self._open(event)
            case SaslInit():
                self._sasl(event)
            case SaslResponse():
                # None of the mechanisms asks for one.
                self.connection.sasl_refuse()

    def _open(self, event: Open) -> None:
        self.grants.host = (event.hostname or "")[:256]
        self.connection.open()
        if not len(self.grants):
            running_wheel().start(self, asyncio.get_running_loop().time() + PROOF_S)

    def _over(self, reason: str) -> None:
        """Tell all handlers, and put on record what was not the client's own wish."""
        if reason not in ORDINARY_ENDS and reason != CLOSED_BY_OWNER:
            facts: dict[str, Fact] = {"reason": reason, "remote": self.peer.remote}
            for host, subject in self.grants.subjects():
                self.decide(host, subject, "connection-closed", facts)
        self._links.forget_all()

    def _sasl(self, init: SaslInit) -> None:
        if init.mechanism == PLAIN:
            spawn(self._plain(init), "amqp sasl plain")
        else:
            # The other mechanisms say nothing; tokens follow.
            self.connection.sasl_accept()

    async def _plain(self, init: SaslInit) -> None:
        credentials = plain_credentials(init.initial_response) or PlainCredentials("", "")
        try:
            async with self.turn:
                check_user(credentials.user, await self.put_token(credentials.password))
        except RefusedError as error:
            _, delay_s = self.refused(init.hostname or "", credentials.user, error)
            await asyncio.sleep(delay_s)
            self.connection.sasl_refuse()
        except MusterError:
            self.connection.sasl_refuse(SYS_TEMP)
        else:
            self.connection.sasl_accept()

    def _attached(self, link: Link) -> None:
        address = addresses.parse(link.address)
        links = self._services.links
        service = next((each for each in links if each.takes(link, address)), NO_ADDRESS)
        now = self._services.clock.monotonic()
        wait_s = ATTACH_PACE.wait_s(self._arrival, now)
        self._arrival = ATTACH_PACE.after(self._arrival, now)
        if wait_s:
            self.reading.pause()
            asyncio.get_running_loop().call_later(wait_s, self.reading.resume)
        spawn(self._attach(service, link, address), "amqp attach")

    async def _attach(self, service: LinkService, link: Link, address: Address) -> None:
        try:
            async with self.turn:
                """Tokens that came before are checked now."""
            async with self._attaching:
                handler = await service.attach(self, link, address)
        except RefusedError as error:
            host = address.host or self.grants.host
            tracking_id, delay_s = self.refused(host, _subject(address), error)
            await asyncio.sleep(delay_s)
            link.detach(self.error(error, tracking_id))
            return
        except Exception as error:  # noqa: BLE001 - `fail` raises what was not meant to happen
            self.fail(link, error)
            return
        if self.over or not link.attached:
            handler.detached()
        else:
            self.handlers[link] = handler

    def _wake_at_expiry(self) -> None:
        end = self.grants.next_end()
        if end is not None and not self.over:
            left_s = max(end - self._services.clock.time(), _EXPIRY_CHECK_S)
            running_wheel().start(self, asyncio.get_running_loop().time() + left_s)

    def _end_links(self, grant: Grant) -> None:
        over = [link for link, handler in self.handlers.items() if handler.grant is grant]
        if over:
            facts: dict[str, Fact] = {"token_expiry": wire_time(grant.expires_at)}
            self.decide(grant.hub.host, grant.subject, "connection-expired", facts)
        for link in over:
            self.detach(link, Error(amqp_errors.UNAUTHORIZED, "The token expired."))


def _subject(address: Address) -> str:
    """Return under whose name a refused attach is on record: the identity's, if there is one."""
    segments = address.segments
    if len(segments) > 1 and segments[0].lower() == "devices":
        if len(segments) > 3 and segments[2].lower() == "modules":
            return f"{segments[1]}/{segments[3]}"
        return segments[1]
    return address.path
