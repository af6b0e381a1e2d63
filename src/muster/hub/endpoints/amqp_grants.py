"""What the tokens of one AMQP connection, or its client certificate, allow.

A connection proves nothing by itself. Tokens come over `$cbs` or with SASL PLAIN, for as many
devices, modules and policies as the client likes (hub-device.md 3.2); every attach asks here. The
identity is the one in the token's own `sr`, not the `name` a client puts beside it. Where no token
helps, the client's certificate may: whose it is, the first link of an identity asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from muster.auth import audience, sas_token
from muster.auth.access_policies import Right, authenticate, authorize
from muster.errors import UnauthorizedError
from muster.hub.authentication import NEVER_EXPIRES, RefusedError, explained
from muster.hub.connections import EXPIRY_GRACE_S
from muster.model.identity import EDGE_HUB, IdentityRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.auth.audience import HubAudience
    from muster.auth.sas_token import SasToken
    from muster.hub.authentication import Login
    from muster.hub.endpoints.amqp_services import AmqpServices
    from muster.hub.hubs import Hub
    from muster.model.auth_chain import AuthChain
    from muster.wire.amqp.addresses import Address

MAX_GRANTS: Final = 2_000
"""Tokens of one connection. The C# SDK puts 995 devices on one."""


class Holder(Protocol):
    """An identity that is connected by a grant."""

    def renewed(self, expires_at: int) -> None:
        """There is a newer token; `expires_at` in unix seconds."""


@final
class Grant:
    """A token that was checked, or that the certificate of the connection is an identity's.

    Renewal replaces what is in it, not the grant.

    Attributes:
        hub: the hub it is for.
        token: as parsed; `None` for the certificate.
        text: as it came; `None` likewise.
        ref: whose own key it was signed with, or whose certificate it is; `None` for a policy's.
        audience: the part of the hub it is for; `None` for an event stream's.
    """

    __slots__ = ("audience", "hub", "ref", "text", "token")

    def __init__(
        self,
        hub: Hub,
        token: SasToken | None,
        text: str | None,
        ref: IdentityRef | None,
        covers: HubAudience | None,
    ) -> None:
        self.hub = hub
        self.token = token
        self.text = text
        self.ref = ref
        self.audience = covers

    @property
    def subject(self) -> str:
        """Who brought it, for the decision log: an identity, or a policy by its name."""
        return self.ref.text if self.ref is not None else (self.policy or "")

    @property
    def policy(self) -> str | None:
        """The policy whose key the token is signed with; `None` for an identity's own proof."""
        return None if self.token is None else self.token.key_name

    @property
    def expires_at(self) -> int:
        """When the token expires, unix seconds; `NEVER_EXPIRES` for a certificate."""
        return NEVER_EXPIRES if self.token is None else self.token.expiry

    @property
    def ends_at(self) -> int:
        """When links end that it allows, unix seconds."""
        return self.expires_at + EXPIRY_GRACE_S

    @property
    def stream_hosts(self) -> frozenset[str]:
        """The host a token for the event stream names, which may be any: the path names the hub."""
        resource = "" if self.token is None else self.token.resource
        host, _, path = resource.partition("://")[2].lower().partition("/")
        return frozenset({host} if path.partition("/")[0] == self.hub.host else ())

    def covers(self, device_id: str, module_id: str) -> bool:
        """Tell whether an identity may connect by it: by its own key, or a policy above it."""
        if self.ref is not None:
            return self.ref[1:] == (device_id, module_id)
        return self.audience is not None and self.audience.covers(device_id, module_id or None)


@final
class Grants:
    """All grants of a connection.

    Args:
        services: has the hubs, and checks.
        certificate: the client's (DER), `None` when it presented none.

    Attributes:
        host: what the client calls the hub in its open frame, `''` until it did.
    """

    __slots__ = ("_certificate", "_grants", "_holders", "_services", "_spoken_for", "host")

    def __init__(self, services: AmqpServices, certificate: bytes | None) -> None:
        self._services = services
        self._certificate = certificate
        self._grants: dict[tuple[int, str, str | None], Grant] = {}
        self._holders: dict[IdentityRef, Holder] = {}
        self._spoken_for: dict[Grant, set[IdentityRef]] = {}
        self.host = ""

    def __len__(self) -> int:
        """Count them."""
        return len(self._grants)

    async def put(self, text: str) -> Grant:
        """Check a token and take it, in place of an older one for the same resource.

        Raises:
            RefusedError: it is not good.
            UnavailableError: the store does not answer.
        """
        try:
            token = sas_token.parse(text)
        except UnauthorizedError as error:
            raise RefusedError(error.message, "token-malformed", reason=error.message) from None
        hub = self._hub_of(token)
        covers = _audience(token)
        ref: IdentityRef | None = None
        if token.key_name is None:
            if covers is None or covers.device_id is None:
                raise self._explained(
                    UnauthorizedError("The token names no access policy.", code="policy-missing"),
                    token,
                    hub,
                )
            ref = IdentityRef(hub.id, covers.device_id, covers.module_id or "")
            await self._services.authenticator.login(hub, ref, text)
        else:
            try:
                authenticate(token, policies=hub.policy, now=self._services.clock.time())
            except UnauthorizedError as error:
                raise self._explained(error, token, hub) from None
        # Two IDs may differ in nothing but their case.
        resource = token.resource if ref is not None else token.resource.lower()
        key = (hub.id, resource, token.key_name)
        grant = self._grants.get(key)
        if grant is not None:
            grant.token, grant.text = token, text
        else:
            grant = Grant(hub, token, text, ref, covers)
            self._add(key, grant)
        self._renewed(grant)
        return grant

    def identity(
        self, address: Address, device_id: str, module_id: str, chain: AuthChain | None
    ) -> tuple[Grant, IdentityRef]:
        """Return the grant by which a device or module may be logged in, and who that is.

        Its own proof goes first, then that of the edge hub that speaks for it (edge.md 6.5).
        Whether a certificate is the identity's, or the chain holds, is known after `login` only.

        Args:
            address: the link's; with several hubs its host tells which.
            device_id: who.
            module_id: likewise, `''` for the device itself.
            chain: over which an edge hub speaks for it; `None` for none.

        Raises:
            RefusedError: there is none.
        """
        covering = [
            grant for grant in self._preferred(address) if grant.covers(device_id, module_id)
        ]
        if not covering and chain is not None:
            edge_hub = (chain.actor, EDGE_HUB)
            covering = [
                grant
                for grant in self._preferred(address)
                if grant.ref is not None and grant.ref[1:] == edge_hub
            ]
        if not covering and self._certificate is not None:
            host = address.host or self.host
            hub = self.hub(host)
            if hub is None:
                raise self._unknown_hub(host)
            ref = IdentityRef(hub.id, device_id, module_id)
            return Grant(hub, None, None, ref, None), ref
        if not covering:
            raise self._missing(_needed(device_id, module_id, chain), Right.DEVICE_CONNECT)
        grant = next((each for each in covering if each.ref is not None), covering[0])
        return grant, IdentityRef(grant.hub.id, device_id, module_id)

    async def login(self, grant: Grant, ref: IdentityRef, chain: AuthChain | None) -> Login:
        """Check that an identity may connect at this moment; see `Authenticator.login`.

        Between `Connections.begin` and `Connections.attach`.
        """
        certificate = self._certificate if grant.token is None else None
        authenticator = self._services.authenticator
        login = await authenticator.login(grant.hub, ref, grant.text, certificate, chain)
        if grant.token is None:
            self._add((grant.hub.id, ref.text, None), grant)
        return login

    def hold(self, ref: IdentityRef, holder: Holder, grant: Grant) -> None:
        """Have an identity that is connected by a grant told of newer tokens."""
        self._holders[ref] = holder
        if grant.ref not in {None, ref}:
            self._spoken_for.setdefault(grant, set()).add(ref)

    def let_go(self, ref: IdentityRef, holder: Holder) -> None:
        """Tell it no more."""
        if self._holders.get(ref) is holder:
            del self._holders[ref]
            for spoken_for in self._spoken_for.values():
                spoken_for.discard(ref)

    def subjects(self) -> set[tuple[str, str]]:
        """Return who is on the connection: host of the hub, and identity or policy.

        A policy that only stands for the devices that are on it is not named.
        """
        hosts = {hub.id: hub.host for hub in self._services.hubs.all()}
        found = {(hosts[ref.hub], ref.text) for ref in self._holders}
        return found or {(each.hub.host, each.subject) for each in self._grants.values()}

    def service(self, address: Address, right: Right, *, hub: Hub | None = None) -> Grant:
        """Return the grant by which a back end may use a link.

        Args:
            address: the link's. The token's resource must be the hub or lead there
                (`audience.covers_path`). With several hubs its host tells which is meant.
            right: what its policy must have.
            hub: which is meant, where the path says so.

        Raises:
            RefusedError: there is none.
        """
        path = address.path
        services = self._services
        refusal: RefusedError | None = None
        for grant in self._preferred(address):
            if grant.ref is not None or hub not in {None, grant.hub}:
                continue
            try:
                authorize(
                    grant.text,
                    hosts=grant.hub.names | grant.stream_hosts,
                    path=path,
                    policies=grant.hub.policy,
                    needs=(right,),
                    now=services.clock.time(),
                )
            except UnauthorizedError as error:
                refusal = self._explained(error, grant.token, grant.hub, path, right)
            else:
                return grant
        raise refusal or self._missing(path, right)

    def expire(self, now: float) -> list[Grant]:
        """Forget the grants whose time is up, and return them.

        Args:
            now: unix seconds.
        """
        over = {key: grant for key, grant in self._grants.items() if grant.ends_at <= now}
        for key, grant in over.items():
            del self._grants[key]
            self._spoken_for.pop(grant, None)
        return list(over.values())

    def next_end(self) -> float | None:
        """Return when the next one's time is up, unix seconds; `None` when that is never."""
        tokens = (grant for grant in self._grants.values() if grant.token is not None)
        return min((grant.ends_at for grant in tokens), default=None)

    def hub(self, host: str) -> Hub | None:
        """Return the hub called `host`; an only hub answers to every name."""
        hubs = self._services.hubs
        found = hubs.find(host)
        every = hubs.all()
        return every[0] if found is None and len(every) == 1 else found

    def _hub_of(self, token: SasToken) -> Hub:
        rest = token.resource.partition("://")[2] or token.resource
        host, _, path = rest.partition("/")
        # The stream of a hub that is reached under another name has the hub's name in its path.
        found = self.hub(host) or self._services.hubs.find(path.partition("/")[0] or self.host)
        if found is None:
            raise self._unknown_hub(host)
        return found

    def _unknown_hub(self, host: str) -> RefusedError:
        return RefusedError(
            "There is no such hub here.",
            "unknown-hub",
            hub=host[:256],
            expected=", ".join(known.host for known in self._services.hubs.all()),
        )

    def _add(self, key: tuple[int, str, str | None], grant: Grant) -> None:
        if len(self._grants) >= MAX_GRANTS:
            raise RefusedError(
                f"A connection takes at most {MAX_GRANTS} tokens.",
                "too-many-tokens",
                limit=MAX_GRANTS,
            )
        self._grants[key] = grant

    def _preferred(self, address: Address) -> Iterable[Grant]:
        """Return all grants, those first whose hub the client seems to mean."""
        means = self._services.hubs.find(address.host or self.host)
        return sorted(self._grants.values(), key=lambda grant: grant.hub is not means)

    def _renewed(self, grant: Grant) -> None:
        expires_at = grant.expires_at
        if grant.ref is not None:
            for ref in (grant.ref, *self._spoken_for.get(grant, ())):
                if ref in self._holders:
                    self._holders[ref].renewed(expires_at)
            return
        for ref, holder in list(self._holders.items()):
            if ref.hub == grant.hub.id and grant.covers(ref.device_id, ref.module_id):
                holder.renewed(expires_at)

    def _missing(self, path: str, right: Right) -> RefusedError:
        grant = next((each for each in self._grants.values() if each.token is not None), None)
        if grant is None:
            return RefusedError("No SAS token was given.", "token-missing")
        error = UnauthorizedError("The token is for another resource.", code="wrong-resource")
        return self._explained(error, grant.token, grant.hub, path, right)

    def _explained(
        self,
        error: UnauthorizedError,
        token: SasToken | None,
        hub: Hub,
        path: str = "",
        right: Right | None = None,
    ) -> RefusedError:
        return explained(
            error,
            token,
            expected=f"{hub.host}/{path}" if path else hub.host,
            needs=right.value if right else "",
            now=self._services.clock.now(),
        )


def _audience(token: SasToken) -> HubAudience | None:
    """Return the part of a hub that a token is for; `None` for an event stream."""
    try:
        return audience.hub_audience(token.resource)
    except UnauthorizedError:
        return None


def _needed(device_id: str, module_id: str, chain: AuthChain | None) -> str:
    """Return what a token is to be for."""
    if chain is not None:
        return f"devices/{chain.actor}/modules/{EDGE_HUB}"
    return f"devices/{device_id}/modules/{module_id}" if module_id else f"devices/{device_id}"


def spoken_for(text: str) -> tuple[str, str]:
    """Return the host and the subject under which a refused token is on record, as it claims."""
    try:
        token = sas_token.parse(text)
    except UnauthorizedError:
        return "", ""
    covers = _audience(token)
    if covers is None or covers.device_id is None:
        host = (token.resource.partition("://")[2] or token.resource).partition("/")[0]
        return host, token.key_name or ""
    module = f"/{covers.module_id}" if covers.module_id else ""
    return covers.host, covers.device_id + module
