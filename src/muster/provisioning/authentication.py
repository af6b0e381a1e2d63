"""Who is registering: from a token to the enrollment that vouches for it (dps.md 2, 4.2).

The individual enrollment comes first and, when there is one, alone. Otherwise the group of the
device's last registration is tried, then every group. Nothing here tells the device why it was
refused; `RefusalError` carries that to the decision log.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from muster.auth import sas_token
from muster.auth.sas_token import SasToken
from muster.auth.symmetric_keys import SymmetricKeys, derive, encode
from muster.clock import Clock, format_time
from muster.errors import UnauthorizedError
from muster.ids import check_registration_id
from muster.model.decision import Decision, Fact
from muster.model.enrollment import SYMMETRIC_KEY, Entry
from muster.model.registration import RegistrationRecord
from muster.provisioning import attestation
from muster.provisioning.enrollment_groups import EnrollmentGroups, KnownGroup
from muster.provisioning.enrollments import Enrolled, Enrollments
from muster.provisioning.settings import ServiceSettings

KEY_NAME: Final = "registration"
"""The only `skn` of a registration token; clients may leave it out (dps.md 2.1)."""


class RefusalError(UnauthorizedError):
    """The device did not prove itself.

    Args:
        check: the check that decided, a row of `decisions.explain`.
        facts: for the explanation; no secrets.
    """

    def __init__(self, check: str, **facts: Fact) -> None:
        super().__init__("Unauthorized", code=check)
        self.check = check
        self.facts = facts
        self.retry_after_s: int | None = None
        """Seconds the device should leave between attempts, once it has failed repeatedly."""


class Claim(msgspec.Struct, frozen=True):
    """What a device says: who it is, and its evidence.

    Attributes:
        id_scope: as sent.
        registration_id: as sent.
        token: text of its SAS token, `None` when it sent none.
    """

    id_scope: str
    registration_id: str
    token: str | None

    def __repr__(self) -> str:
        return f"Claim({self.id_scope}, {self.registration_id})"


class RegisterRequest(msgspec.Struct, frozen=True):
    """One request of a device: to register, to poll or to look its record up.

    Attributes:
        claim: who it is and its evidence.
        tracking_id: under which the outcome is recorded, and which an error answer carries.
        api_version: as sent, may be empty.
        transport: `mqtt`, `mqtt-ws` or `https`.
        remote: the device's address.
    """

    claim: Claim
    tracking_id: str
    api_version: str = ""
    transport: str = ""
    remote: str = ""

    def decided(
        self,
        now: datetime,
        outcome: str,
        check: str,
        facts: dict[str, Fact],
        operation: str = "register",
    ) -> Decision:
        """Return what the decision log is told of this request."""
        return Decision(
            tracking_id=self.tracking_id,
            time=now,
            service="dps",
            operation=operation,
            subject=self.claim.registration_id[:128],
            outcome=outcome,
            check=check,
            facts={**facts, "transport": self.transport, "remote": self.remote},
        )


class Proof(msgspec.Struct):
    """A device that proved itself.

    Attributes:
        entry: the enrollment that vouches for it.
        group_id: its enrollment group, `None` for an individual enrollment.
        slot: which key it was: primary or secondary.
        keys: the two keys the device's identity in the hub gets (dps.md 4.7).
        record: its registration record, if it registered before.
    """

    entry: Entry
    group_id: str | None
    slot: str
    keys: SymmetricKeys
    record: RegistrationRecord | None

    @property
    def entry_name(self) -> str:
        """The entry in words."""
        kind = "enrollment group" if self.group_id else "individual enrollment"
        return f"{kind} {self.entry.entry_id}"


class Authentication:
    """Checks claims. One read of the store for each."""

    def __init__(
        self,
        settings: ServiceSettings,
        enrollments: Enrollments,
        groups: EnrollmentGroups,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._enrollments = enrollments
        self._groups = groups
        self._clock = clock
        self._symmetric_key = attestation.find(SYMMETRIC_KEY)

    async def prove(self, claim: Claim) -> Proof:
        """Return the proof, or say no.

        Raises:
            InvalidArgumentError: the registration ID breaks the rule.
            RefusalError: it is not proven; with the check that decided. For a wrong signature
                that is `wrong-key`; `diagnosis.diagnose` may know better.
        """
        check_registration_id(claim.registration_id)
        token = self._token(claim)
        enrolled = await self._enrollments.for_registration(claim.registration_id)
        proof = self._individual(token, enrolled) or self._member(claim, token, enrolled)
        if proof is None:
            raise RefusalError("wrong-key")
        return proof

    def _token(self, claim: Claim) -> SasToken:
        """Check everything about a token that needs no key."""
        expected_scope = self._settings.id_scope
        if claim.id_scope.lower() != expected_scope.lower():
            raise RefusalError(
                "unknown-id-scope", id_scope=claim.id_scope[:64], expected=expected_scope
            )
        if not claim.token:
            raise RefusalError("token-missing")
        try:
            token = sas_token.parse(claim.token)
        except UnauthorizedError as error:
            raise RefusalError("token-malformed", reason=error.message) from None
        expected = f"{expected_scope}/registrations/{claim.registration_id}"
        if token.resource.lower() != expected.lower():
            raise RefusalError(
                "wrong-registration-in-token",
                token_resource=token.resource[:256],
                expected=expected,
            )
        if token.key_name not in (None, KEY_NAME):
            raise RefusalError("wrong-key-name", key_name=(token.key_name or "")[:64])
        now = self._clock.time()
        late = sas_token.expired_for_s(token, now)
        if late is not None:
            raise RefusalError(
                "token-expired",
                expired_for_s=round(late),
                server_time=format_time(self._clock.now()),
                token_expiry=token.expiry,
            )
        return token

    def _individual(self, token: SasToken, enrolled: Enrolled) -> Proof | None:
        stored = enrolled.stored
        if stored is None:
            return None
        mechanism = attestation.find(stored.entry.attestation.type)
        if mechanism is None:
            raise RefusalError(
                "unsupported-attestation",
                attestation=stored.entry.attestation.type,
                entry=stored.entry.entry_id,
            )
        slot = mechanism.own_key(token, stored.keys)
        if slot is None:
            # Also when a group's key would fit: an individual enrollment bars it (dps.md 4.2).
            raise RefusalError("wrong-key")
        return Proof(stored.entry, None, slot, stored.keys, enrolled.record)

    def _member(self, claim: Claim, token: SasToken, enrolled: Enrolled) -> Proof | None:
        mechanism = self._symmetric_key
        if mechanism is None:
            return None
        for known in self._likely_first(enrolled.record):
            slot = mechanism.derived_key(token, known.decoded, claim.registration_id)
            if slot is not None:
                return Proof(
                    known.group,
                    known.group.enrollment_group_id,
                    slot,
                    derived_keys(known, claim.registration_id),
                    enrolled.record,
                )
        return None

    def _likely_first(self, record: RegistrationRecord | None) -> list[KnownGroup]:
        groups = self._groups.all()
        likely = self._groups.known(record.group_id) if record and record.group_id else None
        if likely is None:
            return groups
        return [likely, *(group for group in groups if group is not likely)]


def derived_keys(known: KnownGroup, registration_id: str) -> SymmetricKeys:
    """Return both keys of a group's member."""
    primary, secondary = (derive(key, registration_id) for key in known.decoded)
    return SymmetricKeys(encode(primary), encode(secondary))
