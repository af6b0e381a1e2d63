"""Whether a module or leaf device may connect to the edge hub (edge.md 6.3)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, final

from msgspec import Struct

from muster.auth import audience, sas_token, thumbprints
from muster.edge.hub.members import local
from muster.edge.identity import AGENT, HUB
from muster.errors import ForbiddenError, MusterError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.auth.audience import HubAudience
    from muster.auth.sas_token import SasToken
    from muster.clock import Clock
    from muster.edge.hub.members import Member
    from muster.edge.hub.scope import Scope
    from muster.model.identity import IdentityRef

NEVER_EXPIRES: Final = 1 << 40
"""Unix seconds that never come: the expiry of who proved itself without a token."""

_SAS: Final = "sas"
_SELF_SIGNED: Final = "selfSigned"


class Proof(Struct, frozen=True):
    """What a client has to show.

    Attributes:
        token: SAS token, `None` for none.
        certificate: DER of the client certificate whose key it has, `None` for none.
        auth_chain: over which an edge hub below this one speaks for it, empty for none.
    """

    token: str | None = None
    certificate: bytes | None = None
    auth_chain: str = ""

    @property
    def speaker(self) -> str | None:
        """The edge device whose `$edgeHub` speaks; `None` where a chain is but a name."""
        return self.auth_chain.rpartition(";")[2] if ";" in self.auth_chain else None

    def __repr__(self) -> str:
        return "Proof(***)"


class Admission(NamedTuple):
    """That a client may connect.

    Attributes:
        expires_at: when its token expires, unix seconds.
        over: edge devices below this one over which it is spoken for; none when it proved itself.
    """

    expires_at: int
    over: tuple[str, ...] = ()


@final
class Authenticator:
    """Checks clients against the scope, which is asked again when they do not fit what is known.

    Args:
        scope: the identities.
        device_id: of this device. Its own `$edgeAgent` and `$edgeHub` are parts of this process
            and connect to nobody here: whoever says to be one of them would take over their
            sessions with the hub. Those of edge devices below this one are clients like others.
        hosts: what tokens may be for: the hub's name and this device's.
        clock: for expiry.

    Attributes:
        refused: proofs that were refused, by code of the error, since the start.
    """

    def __init__(self, scope: Scope, device_id: str, hosts: Iterable[str], clock: Clock) -> None:
        self._scope = scope
        self._own = frozenset([local(device_id, AGENT), local(device_id, HUB)])
        self._hosts = tuple(hosts)
        self._clock = clock
        self.refused: Counter[str] = Counter()

    async def login(self, ref: IdentityRef, proof: Proof) -> Admission:
        """Check a client.

        Raises:
            UnauthorizedError, ForbiddenError: it may not connect.
            UnavailableError: it is not known here, and the hub cannot be asked now.
        """
        try:
            if ref in self._own:
                raise _refused(f"'{ref.text}' is this process itself.", "runtime-identity")
            return await self._login(ref, proof)
        except MusterError as error:
            self.refused[error.code] += 1
            raise

    def check(self, ref: IdentityRef, proof: Proof) -> Admission:
        """Check a client by what is known; whoever had to wait since `login` is checked again.

        Raises:
            UnauthorizedError, ForbiddenError: it may not connect.
        """
        member = self._scope.find(ref)
        device = self._scope.find(local(ref.device_id))
        if member is None or device is None:
            raise _refused(f"'{ref.text}' is not in the scope of this device.", "unknown-identity")
        if not device.enabled:
            raise ForbiddenError(f"The device '{ref.device_id}' is disabled.", subject=ref.text)
        if proof.token is None:
            return _check_certificate(member, proof.certificate)
        token = sas_token.parse(proof.token)
        resource = audience.hub_audience(token.resource)
        if not resource.at(self._hosts):
            raise _refused("The token is for another hub.", "wrong-resource")
        if proof.speaker is not None and not resource.names(ref.device_id, ref.module_id or None):
            self._check_token(token, self._speaker_keys(ref, resource, proof.auth_chain))
            over = [name for name in self._scope.lineage(ref)[:-1] if "/" not in name]
            return Admission(token.expiry, tuple(over))
        self._check_token(token, self._own_keys(ref, resource, member, device))
        return Admission(token.expiry)

    async def _login(self, ref: IdentityRef, proof: Proof) -> Admission:
        try:
            return self.check(ref, proof)
        except (UnauthorizedError, ForbiddenError):
            # It may be new, have new keys, or have been enabled meanwhile.
            speaker = proof.speaker
            asked = await self._scope.ask(ref, speaker)
            if asked and ref.module_id:
                await self._scope.ask(local(ref.device_id), speaker)
            if asked and speaker is not None:
                await self._scope.ask(local(speaker, HUB))
            try:
                return self.check(ref, proof)
            except UnauthorizedError as error:
                if error.code == "unknown-identity" and not asked:
                    raise UnavailableError(
                        f"'{ref.text}' is not known, and the hub did not say who that is.",
                        code="scope-unknown",
                        subject=ref.text,
                    ) from None
                raise

    def _speaker_keys(self, ref: IdentityRef, resource: HubAudience, text: str) -> list[bytes]:
        """Return the keys of the edge hub below this one that may speak for an identity.

        As the official edge hub: it is between the identity and this device (edge.md 6.5).
        """
        names = text.split(";")
        if names[0] != ref.text:
            raise _refused("The chain is for another identity.", "wrong-auth-chain")
        if self._scope.lineage(ref)[: len(names)] != names:
            raise _refused(
                "The chain does not lead from there to this device.", "broken-auth-chain"
            )
        if self._scope.auth_chain(ref) is None:
            raise _refused("An edge device of the chain is disabled.", "edge-device-disabled")
        speaker = self._scope.find(local(names[-1], HUB))
        if speaker is None or speaker.kind != _SAS:
            raise _refused("There is no such edge hub below this device.", "unknown-edge-hub")
        if not resource.names(names[-1], HUB):
            raise _refused("The token is not that of the edge hub.", "wrong-resource")
        return speaker.raw_keys()

    def _own_keys(
        self, ref: IdentityRef, resource: HubAudience, member: Member, device: Member
    ) -> list[bytes]:
        """Return the keys by which an identity may prove itself."""
        keys = member.raw_keys() if member.kind == _SAS else []
        own = resource.names(ref.device_id, ref.module_id or None)
        if ref.module_id and (own or resource.names(ref.device_id)):
            # The device's key may stand for any of its modules.
            keys += device.raw_keys() if device.kind == _SAS else []
        elif not own:
            raise _refused("The token is for another identity.", "wrong-resource")
        return keys

    def _check_token(self, token: SasToken, keys: list[bytes]) -> None:
        if not any(sas_token.signed_by(token, key) for key in keys):
            raise _refused("The token is signed with no key of the identity.", "wrong-key")
        late_s = sas_token.expired_for_s(token, self._clock.time())
        if late_s is not None:
            raise _refused(
                f"The token expired {late_s:.0f} seconds ago by this device's clock.",
                "expired-token",
            )


def _check_certificate(member: Member, certificate: bytes | None) -> Admission:
    if certificate is None:
        raise _refused("Neither a token nor a client certificate was given.", "token-missing")
    if member.kind != _SELF_SIGNED or not thumbprints.match(
        thumbprints.of(certificate), member.thumbprints
    ):
        raise _refused("The certificate is not one of the identity.", "wrong-certificate")
    return Admission(NEVER_EXPIRES)


def _refused(message: str, code: str) -> UnauthorizedError:
    return UnauthorizedError(message, code=code)
