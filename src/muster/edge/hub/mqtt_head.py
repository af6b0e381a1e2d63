"""The edge hub's answer to an MQTT CONNECT (edge.md 6.3, hub-device.md 2.1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import structlog

from muster.auth.audience import same_host
from muster.edge.hub.authentication import Proof
from muster.edge.hub.members import local
from muster.edge.hub.mqtt_session import ClientSession
from muster.errors import InvalidArgumentError, MusterError, UnauthorizedError, UnavailableError
from muster.model.pacing import Pace, Pacer
from muster.net.mqtt import SERVER_UNAVAILABLE, Accepted, Refused
from muster.wire.mqtt.device_filters import own_topic
from muster.wire.mqtt.device_names import parse_user_name

if TYPE_CHECKING:
    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef
    from muster.net.mqtt import MqttPeer
    from muster.wire.mqtt.packets import Connect

IDENTIFIER_REJECTED: Final = 2
BAD_USER_NAME: Final = 4
NOT_AUTHORIZED: Final = 5

CONNECT_PACE: Final = Pace(rate=1.0, burst=10)
"""Connects of one identity: two clients with one ID take each other over without end."""
CONNECT_PATIENCE_S: Final = 30.0

_RETURN_CODES: Final = {
    "malformed-username": BAD_USER_NAME,
    "client-id-mismatch": IDENTIFIER_REJECTED,
}
_log = structlog.get_logger(__name__)


@final
class MqttHead:
    """An `MqttAcceptor` for modules and leaf devices.

    Args:
        services: of the edge hub.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pacer: Pacer[str] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)
        # Whoever knows no key must not be able to use up the turns of the client that does.
        self._refusals: Pacer[str] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)

    async def accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        """Take or refuse a client."""
        try:
            return await self._accept(connect, peer)
        except UnavailableError as error:
            return self._refused(connect, peer, error, SERVER_UNAVAILABLE)
        except MusterError as error:
            code = _RETURN_CODES.get(error.code, NOT_AUTHORIZED)
            return self._refused(connect, peer, error, code)

    async def _accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        services = self._services
        name = parse_user_name(connect.username or "")
        if connect.client_id != name.client_id:
            raise InvalidArgumentError(
                "The client ID does not go with the user name.", code="client-id-mismatch"
            )
        if not same_host(name.host, services.hosts):
            raise UnauthorizedError("There is no such hub here.", code="unknown-hub")
        ref = local(name.device_id, name.module_id)
        token = None if connect.password is None else connect.password.decode("latin-1")
        proof = Proof(token, peer.certificate, name.auth_chain)
        await services.authenticator.login(ref, proof)
        _check_will(ref, connect)
        if services.clients.full and services.clients.get(ref) is None:
            raise UnavailableError("The edge hub has as many clients as it takes.")
        wait_s = self._pacer.reserve(ref.text, services.clock.monotonic())
        if wait_s is None:
            raise UnavailableError("The client connects too often.", code="throttled")
        if wait_s:
            await asyncio.sleep(wait_s)
        filters = None
        if connect.clean_session:
            await services.sessions.forget(ref)
        else:
            filters = await services.sessions.load(ref)
        if peer.closed:
            # It did not wait; it must not take over the connection that is there.
            return Refused(SERVER_UNAVAILABLE)
        session = ClientSession(
            services,
            ref,
            peer,
            # What is known of it may have changed while it waited.
            admission=services.authenticator.check(ref, proof),
            filters=filters,
            clean=connect.clean_session,
            will=connect.will,
        )
        services.clients.attach(session)
        _log.info("client connected", identity=ref.text, transport=peer.transport)
        return Accepted(session, session_present=bool(filters))

    def _refused(self, connect: Connect, peer: MqttPeer, error: MusterError, code: int) -> Refused:
        now = self._services.clock.monotonic()
        delay_s = self._refusals.reserve(connect.client_id[:256], now)
        if delay_s is None:
            # Whoever keeps this up is in the log already.
            return Refused(code, CONNECT_PATIENCE_S)
        _log.warning(
            "client refused",
            client_id=connect.client_id[:256],
            reason=error.message,
            check=error.code,
            remote=peer.remote,
        )
        return Refused(code, delay_s)


def _check_will(ref: IdentityRef, connect: Connect) -> None:
    """Refuse a will that is no telemetry of the identity itself."""
    own = f"{own_topic(ref)}/messages/events"
    will = connect.will
    if will is not None and will.topic != own and not will.topic.startswith(f"{own}/"):
        raise UnauthorizedError(
            "The will is for a topic the identity may not publish to.", code="topic-not-allowed"
        )
