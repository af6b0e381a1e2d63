"""Faults that are injected into registrations, so that people can rehearse a fleet's first minutes.

Off until it is switched on. The switch is stored; faults are not: they live in memory, have an end,
and are gone after a restart. Only devices that prove who they are meet one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from msgspec.structs import replace

from muster.errors import ConflictError, InvalidArgumentError
from muster.faults.live import CreatedFaults, LiveFault, begun, failure, find
from muster.ids import registration_key
from muster.model.fault import FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.ids import Randomness
    from muster.model.decision import Decision
    from muster.model.fault import Fault
    from muster.provisioning.authentication import RegisterRequest
    from muster.provisioning.settings import ServiceSettings

KINDS: Final = frozenset({FaultKind.REFUSE, FaultKind.DELAY, FaultKind.THROTTLE})
"""What can be done to a registration: it is a request and its answer, and nothing it brings must
get lost."""
_PLACE: Final = "--service dps"


@final
class RegistrationFaults:
    """Fault injection of provisioning (`faults.admin_http.Injection`).

    Args:
        settings: keeps whether it is on.
        clock: for the ends of faults.
        randomness: for IDs and probabilities.
        record: puts an injection on record.
        count: counts an injection, by its kind.
    """

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        clock: Clock,
        randomness: Randomness,
        record: Callable[[Decision], None],
        count: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._randomness = randomness
        self._record = record
        self._count = count
        self._created = CreatedFaults(clock)

    @property
    def on(self) -> bool:
        """Whether faults may be injected."""
        return self._settings.fault_injection

    async def switch(self, *, on: bool) -> None:
        """Switch it on, or off, which ends all faults."""
        await self._settings.set_fault_injection(on=on)
        if not on:
            self._created = CreatedFaults(self._clock)

    async def create(self, wanted: Fault) -> LiveFault:
        """Let a fault begin.

        Raises:
            InvalidArgumentError: code `invalid-fault`.
            ConflictError: codes `fault-injection-off`, `too-many-faults`.
        """
        self._check_on()
        if wanted.kind not in KINDS or wanted.target_condition.strip():
            raise InvalidArgumentError(
                "A fault of registrations refuses, delays or throttles, and names registration IDs "
                "or a prefix of them.",
                code="invalid-fault",
            )
        # Registration IDs have no case.
        wanted = replace(
            wanted,
            device_ids=frozenset(map(registration_key, wanted.device_ids)),
            prefix=registration_key(wanted.prefix),
        )
        fault = begun(wanted, self._clock, self._randomness)
        live = LiveFault(fault, self._clock.monotonic() + fault.expires_at - fault.created_at)
        self._created.add(live)
        return live

    def all(self) -> list[LiveFault]:
        """Return the faults that last."""
        return self._created.all()

    def delete(self, fault_id: str) -> None:
        """End a fault.

        Raises:
            NotFoundError: code `fault-not-found`.
            ConflictError: code `fault-injection-off`.
        """
        self._check_on()
        self._created.remove(find(self.all(), fault_id).fault.id)

    async def meet(self, request: RegisterRequest) -> None:
        """Do what a fault does to a request of a device that has proved itself.

        Raises:
            MusterError: it is refused, or throttled.
        """
        if not self.on:
            return
        registration_id = registration_key(request.claim.registration_id)
        for live in self.all():
            if live.concerns(registration_id) and live.met(self._randomness):
                self._note(live, request)
                if live.fault.kind is not FaultKind.DELAY:
                    raise failure(live.fault)
                await asyncio.sleep(live.fault.delay_s)
                return

    def _note(self, live: LiveFault, request: RegisterRequest) -> None:
        self._count(live.fault.kind)
        subject = request.claim.registration_id[:128]
        times = live.count(registration_key(subject), self._clock.monotonic())
        if times:
            tracking_id = request.tracking_id
            self._record(live.decision("dps", _PLACE, subject, times, self._clock, tracking_id))

    def _check_on(self) -> None:
        if not self.on:
            raise ConflictError(
                "Fault injection is off for provisioning. Switch it on first.",
                code="fault-injection-off",
            )
