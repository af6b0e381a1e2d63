"""How long to wait before trying again, so that a whole site that reboots is no storm."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Pauses that grow with each failure and are random over their whole length ("full jitter").

    Attributes:
        first_s: the longest first pause; doubled with each failure.
        cap_s: the longest pause of all, of one that tries alone.
        floor_s: the shortest pause of all.
    """

    first_s: float
    cap_s: float
    floor_s: float = 0.0

    def pause_s(
        self, failures: int, chance: float, asked_s: float = 0.0, together: int = 1
    ) -> float:
        """Return a pause.

        Args:
            failures: how many there were in a row, at least 1.
            chance: unpredictable number from 0 to 1.
            asked_s: what the server asked to wait at least; spread by a fifth, since it may have
                asked many for the same.
            together: how many try for the same at a time, each with pauses of its own. They are so
                many times longer: the first of them tries about when one alone would.
        """
        # Beyond this the power is far over any cap, and would overflow in the end.
        doublings = min(max(failures, 1) - 1, 32)
        ceiling = max(min(self.first_s * 2.0**doublings, self.cap_s), self.floor_s)
        pause = self.floor_s + chance * (ceiling - self.floor_s) * together
        return max(pause, asked_s * (1 + chance / 5))


UNREACHABLE = Backoff(first_s=2.0, cap_s=120.0)
"""For a service that cannot be reached."""
REFUSED = Backoff(first_s=20.0, cap_s=600.0, floor_s=5.0)
"""For a service that says no: only somebody's decision there changes that."""
