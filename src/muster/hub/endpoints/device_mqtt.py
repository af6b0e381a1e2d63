"""The hub's answer to an MQTT CONNECT (hub-device.md 2.1).

The client learns a return code and nothing else; the decision log has the check that decided.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from muster.errors import InvalidArgumentError, UnavailableError
from muster.hub.authentication import RefusedError, chain_of
from muster.hub.connections import CONNECT_PACE, CONNECT_PATIENCE_S
from muster.hub.endpoints.mqtt_messages import telemetry_topic
from muster.hub.endpoints.mqtt_session import DeviceSession
from muster.model.fault import FaultError, FaultKind, FaultTransport
from muster.model.identity import IdentityRef
from muster.model.message import Stamp, encode_stamp
from muster.model.pacing import Pacer
from muster.net.mqtt import Accepted, Refused
from muster.wire.mqtt.device_names import parse_user_name

if TYPE_CHECKING:
    from muster.hub.authentication import Authenticator, Login
    from muster.hub.connection import Attempt
    from muster.hub.endpoints.session_services import SessionServices
    from muster.hub.fault_injection import HubFaults
    from muster.hub.hubs import Hub, Hubs
    from muster.net.mqtt import MqttPeer
    from muster.wire.mqtt.device_names import UserName
    from muster.wire.mqtt.packets import Connect, Will

IDENTIFIER_REJECTED: Final = 2
SERVER_UNAVAILABLE: Final = 3
BAD_USER_NAME: Final = 4
NOT_AUTHORIZED: Final = 5

# Everything else is "not authorised": so real hubs answer bad credentials of any kind, a
# malformed token among them (hub-device.md 2.1).
_RETURN_CODES: Final = {
    "malformed-username": BAD_USER_NAME,
    "client-id-mismatch": IDENTIFIER_REJECTED,
    "throttled": SERVER_UNAVAILABLE,
}

_FAULTS: Final = frozenset({FaultKind.REFUSE, FaultKind.DELAY, FaultKind.THROTTLE, FaultKind.RESET})
"""What an injected fault can do to a connect."""


@final
class HubMqttEndpoint:
    """An `MqttAcceptor` for devices and modules.

    Args:
        hubs: the hubs of this service.
        authenticator: checks credentials.
        services: what sessions need.
    """

    __slots__ = ("_authenticator", "_hubs", "_refusals", "_services")

    def __init__(self, hubs: Hubs, authenticator: Authenticator, services: SessionServices) -> None:
        self._hubs = hubs
        self._authenticator = authenticator
        self._services = services
        # Refused clients have a pace of their own: whoever knows no key must not be able to use
        # up the turns of the device that does.
        self._refusals: Pacer[tuple[str, str]] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)

    async def accept(self, connect: Connect, peer: MqttPeer) -> Accepted | Refused:
        """Take or refuse a client."""
        host, subject = "", connect.client_id[:256]
        try:
            name = self._name(connect)
            host, subject = name.host[:256].lower(), name.client_id
            return await self._accept(connect, peer, name)
        except RefusedError as error:
            return self._refuse(host, subject, error, peer)
        except UnavailableError:
            # The store has said why. Any other code would make some clients give up for good.
            return Refused(SERVER_UNAVAILABLE)

    def _name(self, connect: Connect) -> UserName:
        try:
            name = parse_user_name(connect.username or "")
        except InvalidArgumentError as error:
            raise RefusedError(
                error.message, error.code, username=(connect.username or "")[:512]
            ) from None
        if connect.client_id != name.client_id:
            raise RefusedError(
                "The client ID does not go with the user name.",
                "client-id-mismatch",
                client_id=connect.client_id[:256],
            )
        return name

    async def _accept(self, connect: Connect, peer: MqttPeer, name: UserName) -> Accepted | Refused:
        hub = self._hubs.find(name.host)
        if hub is None:
            raise RefusedError(
                "There is no such hub here.",
                "unknown-hub",
                hub=name.host[:256],
                expected=", ".join(known.host for known in self._hubs.all()),
            )
        ref = IdentityRef(hub.id, name.device_id, name.module_id)
        password = connect.password
        token = None if password is None else password.decode("latin-1")
        connections = self._services.connections
        chain = chain_of(ref.text, name.auth_chain)
        attempt = connections.begin(ref, chain)
        try:
            login = await self._authenticator.login(hub, ref, token, peer.certificate, chain)
            _check_will(ref, connect.will)
            if hub.faults is not None:
                refused = await _meet(hub.faults, ref, peer)
                if refused is not None:
                    return refused
            await connections.wait_turn(ref)
            await self._settle(connect, name.model_id, login, attempt)
            if peer.closed:
                # It did not wait; it must not take over the connection that is there.
                return Refused(SERVER_UNAVAILABLE)
            return self._welcome(connect, peer, hub, login, attempt)
        finally:
            connections.abandon(attempt)

    async def _settle(
        self, connect: Connect, model_id: str, login: Login, attempt: Attempt
    ) -> None:
        """Bring what is stored up to date with this connect."""
        services = self._services
        if model_id != login.model_id:
            await services.twins.set_model(login.ref, model_id)
            login.model_id = model_id
        if connect.clean_session:
            if login.filters or attempt.stale:
                await services.subscriptions.forget(login.ref)
            login.filters = None
            return
        while attempt.stale:
            # The connection that is about to be taken over has subscribed meanwhile.
            attempt.stale = False
            login.filters = await services.subscriptions.load(login.ref)

    def _welcome(
        self,
        connect: Connect,
        peer: MqttPeer,
        hub: Hub,
        login: Login,
        attempt: Attempt,
    ) -> Accepted:
        services = self._services
        ref = login.ref
        stamp = Stamp(
            ref.device_id, ref.module_id, login.generation_id, login.scope, login.model_id
        )
        session = DeviceSession(
            services,
            hub,
            ref,
            generation_id=login.generation_id,
            stamp=encode_stamp(stamp),
            peer=peer,
            filters=login.filters,
            clean=connect.clean_session,
            will=connect.will,
        )
        older = services.connections.get(ref)
        taken_over = older is not None and older.link.alive
        connection = services.connections.attach(attempt, session, login.expires_at, login.chain)
        if connection is None:
            raise RefusedError("The identity was disabled or deleted.", "device-disabled")
        session.connection = connection
        if taken_over:
            services.decide(
                hub.host, ref.text, "taken-over", {"remote": peer.remote}, outcome="closed"
            )
        return Accepted(session, session_present=bool(login.filters))

    def _refuse(self, host: str, subject: str, error: RefusedError, peer: MqttPeer) -> Refused:
        return_code = _RETURN_CODES.get(error.check, NOT_AUTHORIZED)
        clock = self._services.clock
        delay_s = self._refusals.reserve((host, subject), clock.monotonic())
        if delay_s is None:
            # Whoever keeps this up is on record already.
            return Refused(return_code, CONNECT_PATIENCE_S)
        facts = {**error.facts, "remote": peer.remote, "transport": peer.transport}
        self._services.decide(host, subject, error.check, facts)
        return Refused(return_code, delay_s)


async def _meet(faults: HubFaults, ref: IdentityRef, peer: MqttPeer) -> Refused | None:
    """Do what an injected fault does to a connect; return the refusal, if it is one."""
    fault = faults.choose(ref, _FAULTS, FaultTransport.MQTT)
    if fault is None:
        return None
    if fault.kind is FaultKind.DELAY:
        await asyncio.sleep(fault.delay_s)
        return None
    if fault.kind is FaultKind.RESET:
        peer.reset(fault.reason)
    unauthorized = fault.error is FaultError.UNAUTHORIZED
    return Refused(NOT_AUTHORIZED if unauthorized else SERVER_UNAVAILABLE)


def _check_will(ref: IdentityRef, will: Will | None) -> None:
    """Refuse a will that is no telemetry of the identity itself."""
    own = telemetry_topic(ref)
    if will is not None and will.topic != own and not will.topic.startswith(own + "/"):
        raise RefusedError(
            "The will is for a topic the identity may not publish to.",
            "topic-not-allowed",
            topic=will.topic[:512],
        )
