"""Whether a module or leaf device may connect to the edge hub (edge.md 6.3)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final

from msgspec import Struct

from muster.auth import audience, sas_token, thumbprints
from muster.edge.hub.members import local
from muster.errors import ForbiddenError, MusterError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """

    token: str | None = None
    certificate: bytes | None = None

    def __repr__(self) -> str:
        return "Proof(***)"


@final
class Authenticator:
    """Checks clients against the scope, which is asked again when they do not fit what is known.

    Args:
        scope: the identities.
        hosts: what tokens may be for: the hub's name and this device's.
        clock: for expiry.

    Attributes:
        refused: proofs that were refused, by code of the error, since the start.
    """

    def __init__(self, scope: Scope, hosts: Iterable[str], clock: Clock) -> None:
        self._scope = scope
        self._hosts = tuple(hosts)
        self._clock = clock
        self.refused: Counter[str] = Counter()

    async def login(self, ref: IdentityRef, proof: Proof) -> int:
        """Check a client; return when its token expires, unix seconds.

        Raises:
            UnauthorizedError, ForbiddenError: it may not connect.
            UnavailableError: it is not known here, and the hub cannot be asked now.
        """
        try:
            return await self._login(ref, proof)
        except MusterError as error:
            self.refused[error.code] += 1
            raise

    async def _login(self, ref: IdentityRef, proof: Proof) -> int:
        try:
            return self._check(ref, proof)
        except (UnauthorizedError, ForbiddenError):
            # It may be new, have new keys, or have been enabled meanwhile.
            asked = await self._scope.ask(ref)
            if asked and ref.module_id:
                await self._scope.ask(local(ref.device_id))
            try:
                return self._check(ref, proof)
            except UnauthorizedError as error:
                if error.code == "unknown-identity" and not asked:
                    raise UnavailableError(
                        f"'{ref.text}' is not known, and the hub did not say who that is.",
                        code="scope-unknown",
                        subject=ref.text,
                    ) from None
                raise

    def _check(self, ref: IdentityRef, proof: Proof) -> int:
        member = self._scope.find(ref)
        device = self._scope.find(local(ref.device_id))
        if member is None or device is None:
            raise _refused(f"'{ref.text}' is not in the scope of this device.", "unknown-identity")
        if not device.enabled:
            raise ForbiddenError(f"The device '{ref.device_id}' is disabled.", subject=ref.text)
        if proof.token is None:
            return _check_certificate(member, proof.certificate)
        token = sas_token.parse(proof.token)
        self._check_token(ref, token, member, device)
        return token.expiry

    def _check_token(
        self, ref: IdentityRef, token: SasToken, member: Member, device: Member
    ) -> None:
        resource = audience.hub_audience(token.resource)
        if not resource.at(self._hosts):
            raise _refused("The token is for another hub.", "wrong-resource")
        keys = member.raw_keys() if member.kind == _SAS else []
        own = resource.names(ref.device_id, ref.module_id or None)
        if ref.module_id and (own or resource.names(ref.device_id)):
            # The device's key may stand for any of its modules.
            keys += device.raw_keys() if device.kind == _SAS else []
        elif not own:
            raise _refused("The token is for another identity.", "wrong-resource")
        if not any(sas_token.signed_by(token, key) for key in keys):
            raise _refused("The token is signed with no key of the identity.", "wrong-key")
        late_s = sas_token.expired_for_s(token, self._clock.time())
        if late_s is not None:
            raise _refused(
                f"The token expired {late_s:.0f} seconds ago by this device's clock.",
                "expired-token",
            )


def _check_certificate(member: Member, certificate: bytes | None) -> int:
    if certificate is None:
        raise _refused("Neither a token nor a client certificate was given.", "token-missing")
    if member.kind != _SELF_SIGNED or not thumbprints.match(
        thumbprints.of(certificate), member.thumbprints
    ):
        raise _refused("The certificate is not one of the identity.", "wrong-certificate")
    return NEVER_EXPIRES


def _refused(message: str, code: str) -> UnauthorizedError:
    return UnauthorizedError(message, code=code)
