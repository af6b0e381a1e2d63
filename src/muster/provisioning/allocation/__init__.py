"""Which hub a device gets, one file per policy."""

from __future__ import annotations

from typing import Final

from muster.provisioning.allocation.base import AllocationPolicy, Candidate
from muster.provisioning.allocation.hashed import HashedAllocation
from muster.provisioning.allocation.static import StaticAllocation

__all__ = ["BUILT_IN", "AllocationPolicy", "Candidate", "find"]

BUILT_IN: Final[tuple[AllocationPolicy, ...]] = (HashedAllocation(), StaticAllocation())
"""Every policy there is. Another one is a file here and its name in this tuple."""


def find(name: str) -> AllocationPolicy | None:
    """Return the policy of that name in any case, or `None` where there is none."""
    name = name.lower()
    return next((policy for policy in BUILT_IN if policy.name.lower() == name), None)
