"""Static allocation: the one hub the enrollment names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from muster.provisioning.allocation.base import Candidate, no_hub_available

if TYPE_CHECKING:
    from collections.abc import Sequence


class StaticAllocation:
    """Exactly one hub must be named (dps.md 4.3)."""

    name: Final = "static"

    def choose(self, registration_id: str, candidates: Sequence[Candidate]) -> str:
        """Return the host of the only candidate; see `AllocationPolicy`."""
        if len(candidates) != 1:
            raise no_hub_available(
                "Static allocation needs exactly one hub that is linked and takes part in "
                f"allocation, there are {len(candidates)}",
                registration_id,
            )
        return candidates[0].host
