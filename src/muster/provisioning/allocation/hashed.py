"""Hashed allocation: devices spread over the hubs in proportion to their weights.

Weighted rendezvous hashing: every hub draws a number for the device from a hash of both, and the
highest score wins. No hub's score depends on the other hubs, so a hub that joins takes devices
from the others only for itself, and one that leaves gives away only its own.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from muster.ids import registration_key
from muster.provisioning.allocation.base import Candidate, no_hub_available

if TYPE_CHECKING:
    from collections.abc import Sequence

_BITS: Final = 52
_UNIT: Final = 2.0**-_BITS


class HashedAllocation:
    """The service's default policy."""

    name: Final = "hashed"

    def choose(self, registration_id: str, candidates: Sequence[Candidate]) -> str:
        """Return the host with the highest score for this device; see `AllocationPolicy`."""
        if not candidates:
            raise no_hub_available("No linked hub takes part in allocation", registration_id)
        if len(candidates) == 1:
            return candidates[0].host
        key = registration_key(registration_id).encode()
        # Equal scores do not happen by chance; the host breaks the tie of a hub given twice.
        return max(candidates, key=lambda hub: (_score(key, hub), hub.host)).host


def _score(key: bytes, hub: Candidate) -> float:
    # -w / ln(u) with u evenly spread over the open interval (0, 1): of several such draws each
    # is the highest with probability w / sum of all w. 52 bits and a half keep u exact in a
    # float, and away from 0 and 1.
    digest = blake2b(hub.host.lower().encode() + b"\0" + key, digest_size=8).digest()
    u = ((int.from_bytes(digest) >> (64 - _BITS)) + 0.5) * _UNIT
    return -hub.weight / math.log(u)
