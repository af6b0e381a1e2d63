"""What every allocation policy is: a choice among candidate hubs, pure and stable.

Who the candidates are (the enrollment's hubs or all linked ones, without those taken out of
allocation) and which policy is the service's default is the caller's business (dps.md 4.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from muster.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_WEIGHT: Final = 1000


class Candidate(msgspec.Struct, frozen=True):
    """A hub a device may get.

    Attributes:
        host: its host name.
        weight: 1 to 1000; the share of devices is proportional to it (dps.md 4.3).

    Raises:
        InvalidArgumentError: the weight is outside its range; code `invalid-allocation-weight`.
    """

    host: str
    weight: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= MAX_WEIGHT:
            raise InvalidArgumentError(
                f"The allocation weight of a hub must be from 1 to {MAX_WEIGHT}",
                code="invalid-allocation-weight",
                subject=self.host,
            )


class AllocationPolicy(Protocol):
    """One way to choose."""

    @property
    def name(self) -> str:
        """The policy's name in the API, for example `hashed`."""

    def choose(self, registration_id: str, candidates: Sequence[Candidate]) -> str:
        """Return the host of the device's hub.

        The same arguments, in any order and any case of the ID, give the same hub, today and
        after every restart.

        Raises:
            NotFoundError: there is none to choose; code `no-hub-available`.
        """


def no_hub_available(reason: str, registration_id: str) -> NotFoundError:
    """Return the error for a device that cannot get a hub.

    Args:
        reason: one sentence for the operator.
        registration_id: whom it concerns.
    """
    return NotFoundError(reason, code="no-hub-available", subject=registration_id)
