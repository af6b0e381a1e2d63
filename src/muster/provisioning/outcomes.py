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
    """The latest outcome of each registration ID, until it is asked for or a few seconds old."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Oldest first.
        self._latest: dict[str, _Outcome] = {}

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
        latest, now = self._latest, self._clock.monotonic()
        key = registration_key(claim.registration_id)
        latest.pop(key, None)
        while latest:
            oldest = next(iter(latest))
            if len(latest) < _MAX_KEPT and now - latest[oldest].at < _KEPT_S:
                break
            del latest[oldest]
        latest[key] = _Outcome(claim, operation_id, record, changes, now)

    def take(self, claim: Claim, operation_id: str, changes: int) -> RegistrationRecord | None:
        """Return an outcome to the very device, once, unless anything has changed."""
        key = registration_key(claim.registration_id)
        found = self._latest.get(key)
        if found is None or found.operation_id != operation_id or found.claim != claim:
            return None
        del self._latest[key]
        fresh = found.changes == changes and self._clock.monotonic() - found.at < _KEPT_S
        return found.record if fresh else None
