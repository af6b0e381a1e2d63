"""Whether a device or module may connect: the checks every transport asks for.

What the client is told is the same for all of them; what really decided goes into the decision
log. Sources: hub-device.md 5, 2.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

from msgspec import Struct

from muster.auth import audience, refused_token, sas_token, symmetric_keys, thumbprints
from muster.auth.access_policies import Right, authorize_for_identity
from muster.errors import InvalidArgumentError, UnauthorizedError
from muster.hub import auth_chains, credentials, twin_rows
from muster.hub.registry import SQL
from muster.model import auth_chain
from muster.model.identity import EDGE_HUB, AuthenticationType, IdentityRef
from muster.model.message import AuthScope
from muster.wire.mqtt import device_filters

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from muster.auth.keyring import Keyring
    from muster.auth.sas_token import SasToken
    from muster.auth.symmetric_keys import SymmetricKeys
    from muster.clock import Clock
    from muster.hub.auth_chains import ChainDevice
    from muster.hub.hubs import Hub
    from muster.model.auth_chain import AuthChain
    from muster.model.decision import Fact
    from muster.store.engine import Engine
    from muster.wire.mqtt.device_filters import TopicFilters

NEVER_EXPIRES: Final = 1 << 40
"""Unix seconds that never come: the expiry of who proved itself without a token."""

_SHOWN: Final = 512
"""Characters of a chain that are on record."""

_Columns: TypeAlias = tuple[
    str | None, int, str, bytes | None, str | None, str | None, str | None, str | None
]


class RefusedError(UnauthorizedError):
    """An identity may not connect.

    Args:
        message: for people; the client sees only that it was refused.
        check: the check that decided, by its name in the decision log.
        facts: what it was decided on; no secrets.
    """

    def __init__(self, message: str, check: str, **facts: Fact) -> None:
        super().__init__(message, code=check)
        self.check = check
        self.facts = facts


@final
class Login(Struct):
    """An identity that proved itself, or that an edge hub may speak for.

    Attributes:
        ref: who.
        generation_id: tells identities of the same name apart that replaced each other.
        scope: whose key or certificate it was.
        expires_at: expiry of the token, unix seconds; `NEVER_EXPIRES` for a certificate.
        model_id: the Plug and Play model of the last connect, `''` for none.
        filters: the stored MQTT session, `None` when it holds nothing.
        chain: over which an edge hub speaks for it; `None` when it proved itself.
    """

    ref: IdentityRef
    generation_id: str
    scope: AuthScope
    expires_at: int
    model_id: str
    filters: TopicFilters | None
    chain: AuthChain | None = None


@final
class Authenticator:
    """Checks the tokens and certificates of devices and modules.

    Args:
        engine: has the identities.
        keyring: opens their keys.
        clock: for expiry.
    """

    __slots__ = ("_clock", "_engine", "_keyring")

    def __init__(self, engine: Engine, keyring: Keyring, clock: Clock) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock = clock

    async def login(
        self,
        hub: Hub,
        ref: IdentityRef,
        text: str | None,
        certificate: bytes | None = None,
        chain: AuthChain | None = None,
    ) -> Login:
        """Check a token, or without one a certificate: one read, no write.

        A certificate counts by its thumbprint alone. The dates in it are not looked at: it is
        trusted because it is registered, and as long as it is. A chain counts when the token is
        not the identity's own, and costs one more read.

        Args:
            hub: the hub the client named.
            ref: who the client says it is.
            text: the token, `None` when there is none.
            certificate: DER of the client certificate whose key the peer has, `None` for none.
            chain: from `chain_of`.

        Raises:
            RefusedError: it may not connect.
            UnavailableError: the store does not answer.
        """
        token = _token(text, certificate)
        if token is not None and token.key_name is not None:
            self._check_policy(hub, ref, token)
        if token is None or token.key_name is not None or _names(token, ref):
            # It proves itself.
            chain = None
        query = SQL["login_module" if ref.module_id else "login_device"]
        rows = await self._engine.read(query, twin_rows.key(ref))
        if not rows:
            raise RefusedError(
                f"The device '{ref.device_id}' is not registered at this hub.",
                "unknown-device",
                device_id=ref.device_id,
            )
        generation_id, enabled, kind, sealed, model_id, filters, *known = cast("_Columns", rows[0])
        if generation_id is None:
            raise RefusedError(
                f"The module '{ref.module_id}' is not registered on its device.",
                "unknown-module",
                device_id=ref.device_id,
                module_id=ref.module_id,
            )
        if token is None:
            _check_certificate(ref, certificate or b"", AuthenticationType(kind), known)
        elif chain is not None:
            await self._check_chain(hub, chain, token)
        elif token.key_name is None:
            keys = credentials.unseal(self._keyring, ref, sealed)
            self._check_own_key(hub, ref, token, AuthenticationType(kind), keys)
        if not enabled:
            raise RefusedError(
                f"The device '{ref.device_id}' is disabled.",
                "device-disabled",
                device_id=ref.device_id,
            )
        return Login(
            ref,
            generation_id,
            _scope(ref, token, chain),
            NEVER_EXPIRES if token is None else token.expiry,
            model_id or "",
            device_filters.decode(filters),
            chain,
        )

    async def _check_chain(self, hub: Hub, chain: AuthChain, token: SasToken) -> None:
        """Check that a token is that of an edge hub, and that it may speak over this chain."""
        known = await auth_chains.read(self._engine, hub.id, chain)
        edge_hub = IdentityRef(hub.id, chain.actor, EDGE_HUB)
        found = known.get(chain.actor)
        if found is None or found.scope is None or found.auth_type is None:
            raise RefusedError(
                f"There is no edge hub on '{chain.actor}'.",
                "unknown-edge-hub",
                actor=chain.actor,
                chain=chain.text[:_SHOWN],
            )
        keys = credentials.unseal(self._keyring, edge_hub, found.keys)
        try:
            self._check_own_key(hub, edge_hub, token, AuthenticationType(found.auth_type), keys)
        except RefusedError as error:
            facts = {"expected": f"{hub.host}/devices/{chain.actor}/modules/{EDGE_HUB}"}
            raise RefusedError(
                error.message,
                "wrong-edge-hub-token",
                **{**facts, **error.facts, "actor": edge_hub.text, "reason": error.message},
            ) from None
        _check_links(chain, known)

    def _check_policy(self, hub: Hub, ref: IdentityRef, token: SasToken) -> None:
        try:
            authorize_for_identity(
                token,
                hosts=hub.names,
                device_id=ref.device_id,
                module_id=ref.module_id or None,
                policies=hub.policy,
                now=self._clock.time(),
            )
        except UnauthorizedError as error:
            raise self._explained(error, hub, ref, token) from None

    def _check_own_key(
        self,
        hub: Hub,
        ref: IdentityRef,
        token: SasToken,
        kind: AuthenticationType,
        keys: SymmetricKeys | None,
    ) -> None:
        if kind is AuthenticationType.SELF_SIGNED:
            raise RefusedError(
                "The identity proves itself with a client certificate, not with a SAS token.",
                "certificate-expected",
            )
        if kind is not AuthenticationType.SAS or keys is None:
            raise RefusedError(
                f"The identity authenticates with '{kind}', not with a SAS token.",
                "unsupported-attestation",
                entry=ref.text,
                attestation=kind.value,
            )
        try:
            resource = audience.hub_audience(token.resource)
        except UnauthorizedError as error:
            raise self._explained(error, hub, ref, token) from None
        if not (resource.at(hub.names) and resource.names(ref.device_id, ref.module_id or None)):
            raise self._explained(
                UnauthorizedError("The token is for another resource.", code="wrong-resource"),
                hub,
                ref,
                token,
            )
        pair = (keys.primary, keys.secondary)
        if not any(sas_token.signed_by(token, symmetric_keys.decode(key)) for key in pair):
            if any(sas_token.signed_by(token, key.encode()) for key in pair):
                raise RefusedError(
                    "The token is signed with the text of the key, not with the bytes it stands "
                    "for in base64.",
                    "key-used-undecoded",
                    key="the identity's own key",
                )
            raise RefusedError("The token is signed with neither key.", "wrong-key")
        if sas_token.expired_for_s(token, self._clock.time()) is not None:
            expired = UnauthorizedError("The token is expired.", code="expired-token")
            raise self._explained(expired, hub, ref, token)

    def _explained(
        self, error: UnauthorizedError, hub: Hub, ref: IdentityRef, token: SasToken
    ) -> RefusedError:
        expected = f"{hub.host}/devices/{ref.device_id}"
        if ref.module_id:
            expected += f"/modules/{ref.module_id}"
        return explained(
            error,
            token,
            expected=expected,
            needs=Right.DEVICE_CONNECT.value,
            now=self._clock.now(),
        )


def chain_of(identity: str, text: str) -> AuthChain | None:
    """Read the chain over which an edge hub speaks for an identity, if one is given.

    Args:
        identity: whom it is to be for, `device` or `device/module`.
        text: what the client sent, `''` for none.

    Returns:
        `None` also for a device that says no more than its own name.

    Raises:
        RefusedError: it is none, or for somebody else.
    """
    if not text:
        return None
    try:
        chain = auth_chain.parse(text)
    except InvalidArgumentError as error:
        raise RefusedError(
            error.message, "malformed-auth-chain", chain=text[:_SHOWN], reason=error.message
        ) from None
    if chain.identity != identity:
        raise RefusedError(
            "The authentication chain is for another identity.",
            "wrong-auth-chain",
            identity=chain.identity,
            chain=text[:_SHOWN],
        )
    return None if chain.identity == chain.actor else chain


def _token(text: str | None, certificate: bytes | None) -> SasToken | None:
    """Read the token; `None` where a certificate is all there is."""
    if text:
        try:
            return sas_token.parse(text)
        except UnauthorizedError as error:
            raise RefusedError(error.message, "token-malformed", reason=error.message) from None
    if certificate is None:
        raise RefusedError(
            "Neither a SAS token nor a client certificate was given.", "token-missing"
        )
    return None


def _scope(ref: IdentityRef, token: SasToken | None, chain: AuthChain | None) -> AuthScope:
    """Return whose key or certificate it was."""
    if token is None:
        return AuthScope.MODULE_CERTIFICATE if ref.module_id else AuthScope.DEVICE_CERTIFICATE
    if token.key_name is not None:
        return AuthScope.HUB
    # An edge hub is a module, whomever it speaks for.
    return AuthScope.MODULE if ref.module_id or chain is not None else AuthScope.DEVICE


def _names(token: SasToken, ref: IdentityRef) -> bool:
    """Tell whether a token is for an identity itself."""
    try:
        resource = audience.hub_audience(token.resource)
    except UnauthorizedError:
        return False
    return resource.names(ref.device_id, ref.module_id or None)


def _check_links(chain: AuthChain, known: dict[str, ChainDevice]) -> None:
    broken = auth_chains.broken_link(chain, known)
    if broken is not None:
        below, above = broken
        raise RefusedError(
            f"'{below}' is not below the edge device '{above}'.",
            "broken-auth-chain",
            below=below,
            above=above,
            chain=chain.text[:_SHOWN],
        )
    disabled = auth_chains.disabled_speaker(chain, known)
    if disabled is not None:
        raise RefusedError(
            f"The edge device '{disabled}' is disabled.",
            "edge-device-disabled",
            edge_device=disabled,
            chain=chain.text[:_SHOWN],
        )


def _check_certificate(
    ref: IdentityRef, certificate: bytes, kind: AuthenticationType, known: Iterable[str | None]
) -> None:
    presented = thumbprints.of(certificate)
    if kind is not AuthenticationType.SELF_SIGNED:
        raise RefusedError(
            f"The identity authenticates with '{kind}', not with a client certificate.",
            "certificate-not-expected",
            attestation=kind.value,
            thumbprint=presented.sha256,
        )
    if not thumbprints.match(presented, known):
        raise RefusedError(
            f"The certificate is not one of '{ref.text}'.",
            "wrong-certificate",
            thumbprint=presented.sha256,
            sha1=presented.sha1,
        )


def explained(
    error: UnauthorizedError, token: SasToken | None, *, expected: str, needs: str, now: datetime
) -> RefusedError:
    """Return a refusal of `muster.auth` with the facts it was decided on.

    Args:
        error: the refusal.
        token: what was checked, where it could be read.
        expected: the resource it should have been for.
        needs: the rights it should have had.
        now: when it was checked.
    """
    known = refused_token.facts(error, token, expected=expected, needs=needs, now=now)
    return RefusedError(error.message, refused_token.check(error), **known)
