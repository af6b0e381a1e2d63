"""Devices that are turned away: why is taken down, and repetition is slowed.

The device learns nothing but that it was refused. Finding the cause of a wrong signature starts
when the refusal is decided, in slices between which answers go out, one device after the other and
never for more than a tenth of the time. A failing device is answered later and later, and told to
wait longer and longer (users.md 6, hub-device.md 0.11): per registration ID, and per address as a
backstop against made-up IDs. Nothing here ever delays a device that proves itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from typing import Final, NamedTuple

import structlog

from muster.clock import Clock
from muster.decisions.log import DecisionLog
from muster.errors import (
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    ThrottledError,
    TooLargeError,
)
from muster.ids import registration_key
from muster.model.decision import Fact
from muster.model.pacing import Pace, Pacer
from muster.net.tasks import spawn
from muster.provisioning.authentication import RefusalError, RegisterRequest
from muster.provisioning.diagnosis import Cause, diagnose
from muster.provisioning.enrollment_groups import EnrollmentGroups
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.latest import Latest

_FREE: Final = 5
"""Failures of one registration ID that are answered at once; a client retrying in good faith makes
that many while its operator looks on."""
_LONGEST_DELAY_S: Final = 15.0
"""The SDKs give up on a request after 30 s (dps.md 9): an answer must come well before."""
_LONGEST_RETRY_S: Final = 300
"""The C SDK takes no more than this (dps.md 9)."""
_FORGET_S: Final = 600.0
_MAX_REMEMBERED: Final = 16_384

_ADDRESS_PACE: Final = Pace(rate=50, burst=500)
"""Failures of one address: a site behind one address may have a few hundred devices."""

_MAX_UNEXAMINED: Final = 1_000
_SHARE: Final = 10
_CAUSE_KEPT_S: Final = 60.0

_log = structlog.get_logger(__name__)


class _Failures(NamedTuple):
    times: int
    at: float


class _Examined(NamedTuple):
    token: int
    cause: Cause
    at: float


class Slowdown(NamedTuple):
    """What repetition costs.

    Attributes:
        delay_s: seconds to wait before the answer.
        retry_after_s: what to ask of the device; `None` before it has failed repeatedly.
    """

    delay_s: float
    retry_after_s: int | None


class Refusals:
    """Takes refusals down and slows repetition.

    Args:
        decisions: where they are recorded.
        enrollments: to find causes.
        groups: likewise.
        clock: for time stamps and pacing.
    """

    def __init__(
        self,
        decisions: DecisionLog,
        enrollments: Enrollments,
        groups: EnrollmentGroups,
        clock: Clock,
    ) -> None:
        self._decisions = decisions
        self._enrollments = enrollments
        self._groups = groups
        self._clock = clock
        self._failures: Latest[_Failures] = Latest(_MAX_REMEMBERED)
        self._addresses: Pacer[str] = Pacer(_ADDRESS_PACE, _LONGEST_DELAY_S)
        self._unexamined: deque[RegisterRequest] = deque()
        self._examining: asyncio.Task[None] | None = None
        self._examined: Latest[_Examined] = Latest(_MAX_REMEMBERED)

    async def refuse(self, request: RegisterRequest, error: MusterError) -> None:
        """Take down why a request fails; returns when it may be answered.

        Args:
            request: what the device asked.
            error: what it will be told. A `RefusalError` is given its `retry_after_s`.
        """
        if isinstance(error, RefusalError):
            if error.check == "wrong-key":
                self._examine(request)
            else:
                self._record(request, error.check, error.facts)
        elif isinstance(error, InvalidArgumentError | TooLargeError):
            known = error.code == "invalid-registration-id"
            self._record(
                request, error.code if known else "invalid-request", {"reason": error.message}
            )
        elif error.code == "fault-injected":
            # On record as what it is.
            return
        elif isinstance(error, ThrottledError):
            # Not the device's fault, and it has its own waiting time.
            self._record(request, "throttled", {"reason": error.message})
            return
        elif not isinstance(error, NotFoundError):
            return
        slowdown = self._failed(request)
        if isinstance(error, RefusalError):
            error.retry_after_s = slowdown.retry_after_s
        if slowdown.delay_s:
            await asyncio.sleep(slowdown.delay_s)

    def turn_away(self, request: RegisterRequest, check: str, facts: dict[str, Fact]) -> float:
        """Take down that a device is not even let in; returns the seconds to wait before saying so.

        Args:
            request: what is known of it.
            check: what decided.
            facts: for the explanation.
        """
        now = self._clock.now()
        self._decisions.record(request.decided(now, "refused", check, facts, "connect"))
        return self._failed(request).delay_s

    def forgive(self, registration_id: str) -> None:
        """Forget the failures of a device that has proved itself."""
        self._failures.drop(_key(registration_id))

    def _record(self, request: RegisterRequest, check: str, facts: dict[str, Fact]) -> None:
        self._decisions.record(request.decided(self._clock.now(), "refused", check, facts))

    def _failed(self, request: RegisterRequest) -> Slowdown:
        """Count a failure and return what it costs: from the sixth on, twice as much each time."""
        key, now = _key(request.claim.registration_id), self._clock.monotonic()
        before = self._failures.get(key)
        count = 1 if before is None or now - before.at > _FORGET_S else before.times + 1
        self._failures.put(key, _Failures(count, now))
        beyond = min(count - _FREE, 16)
        by_id = min(2.0 ** (beyond - 1), _LONGEST_DELAY_S) if beyond > 0 else 0.0
        by_address = self._addresses.reserve(_network(request.remote), now)
        return Slowdown(
            max(by_id, _LONGEST_DELAY_S if by_address is None else by_address),
            min(2**beyond, _LONGEST_RETRY_S) if beyond > 0 else None,
        )

    # Why a signature fits nothing.

    def _examine(self, request: RegisterRequest) -> None:
        if len(self._unexamined) >= _MAX_UNEXAMINED:
            self._record(request, "wrong-key", {"examined": False})
            return
        self._unexamined.append(request)
        if self._examining is None:
            self._examining = spawn(self._examine_all(), "diagnosis")

    async def _examine_all(self) -> None:
        try:
            while self._unexamined:
                began = self._clock.monotonic()
                request = self._unexamined.popleft()
                cause = await self._cause(request)
                self._record(request, cause.check, cause.facts)
                await asyncio.sleep((_SHARE - 1) * (self._clock.monotonic() - began))
        finally:
            self._examining = None

    async def _cause(self, request: RegisterRequest) -> Cause:
        key, now = _key(request.claim.registration_id), self._clock.monotonic()
        token = hash(request.claim.token)
        known = self._examined.get(key)
        if known is not None and known.token == token and now - known.at < _CAUSE_KEPT_S:
            return known.cause
        try:
            cause = await diagnose(request.claim, self._enrollments, self._groups)
        except MusterError as error:
            _log.warning("cause of a refusal not examined", reason=error.message)
            return Cause("wrong-key", {"examined": False})
        self._examined.put(key, _Examined(token, cause, now))
        return cause


def _key(registration_id: str) -> str:
    return registration_key(registration_id[:128])


def _network(remote: str) -> str:
    """Return the address a device comes from; of IPv6 the network that one site has."""
    host = remote.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
