"""What devices have just been told, so that their polls need not be looked up.

A device asks for its outcome a moment after it proved itself, with the same evidence. For that
moment the outcome is remembered. Whatever an operator changes meanwhile makes it forgotten: then
the device proves itself again, against what is there.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

from muster.clock import Clock
from muster.ids import registration_key
from muster.model.registration import RegistrationRecord
from muster.provisioning.authentication import Claim
from muster.provisioning.latest import Latest

_KEPT_S: Final = 5.0
"""The SDKs poll after one or two seconds (dps.md 9)."""
_MAX_KEPT: Final = 16_384


class _Outcome(NamedTuple):
    claim: Claim
    operation_id: str
    record: RegistrationRecord
    changes: int
    at: float


@final
class Outcomes:
    """The latest outcome of each registration ID, for seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: Latest[_Outcome] = Latest(_MAX_KEPT)

    def remember(
        self, claim: Claim, operation_id: str, record: RegistrationRecord, changes: int
    ) -> None:
        """Keep an outcome.

        Args:
            claim: with which the device proved itself.
            operation_id: under which it asks.
            record: its outcome.
            changes: counts what operators change; as it was before the proof.
        """
        self._latest.put(
            registration_key(claim.registration_id),
            _Outcome(claim, operation_id, record, changes, self._clock.monotonic()),
        )

    def find(self, claim: Claim, operation_id: str, changes: int) -> RegistrationRecord | None:
        """Return an outcome for the very device and operation, unless anything has changed."""
        found = self._latest.get(registration_key(claim.registration_id))
        if (
            found is not None
            and found.operation_id == operation_id
            and found.changes == changes
            and found.claim == claim
            and self._clock.monotonic() - found.at < _KEPT_S
        ):
            return found.record
        return None
