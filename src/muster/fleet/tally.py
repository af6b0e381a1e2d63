"""What a fleet has done so far, counted once for all devices."""

from __future__ import annotations

import enum
import math
from collections import Counter
from typing import Final, final

import msgspec

_SHORTEST_S: Final = 1e-4
_GROWTH: Final = math.log(1.05)
_BUCKETS: Final = 300
"""From 0.1 ms to beyond three minutes, each five per cent wider than the one before."""


class State(enum.StrEnum):
    """Where a device is in its life."""

    IDLE = "idle"
    REGISTERING = "registering"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    FAILED = "failed"
    LEFT = "left"


@final
class Latencies:
    """A histogram of seconds; its percentiles are right to five per cent."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Count one."""
        at = int(math.log(seconds / _SHORTEST_S) / _GROWTH) + 1 if seconds > _SHORTEST_S else 0
        self._counts[min(at, _BUCKETS - 1)] += 1

    def absorb(self, other: Latencies) -> None:
        """Take over what the other has counted; it starts again from nothing."""
        self._counts = [
            ours + theirs for ours, theirs in zip(self._counts, other._counts, strict=True)
        ]
        other._counts = [0] * _BUCKETS

    def percentile(self, part: float) -> float | None:
        """Return the seconds that this part (0 to 1) was not slower than, `None` for no counts."""
        wanted = math.ceil(sum(self._counts) * part)
        if not wanted:
            return None
        for at, count in enumerate(self._counts):
            wanted -= count
            if wanted <= 0:
                return _SHORTEST_S * math.exp(at * _GROWTH)
        raise AssertionError("the counts are fewer than their sum")


class AckTimes(msgspec.Struct, frozen=True):
    """How long the hub took to acknowledge telemetry, in milliseconds; `None` without any."""

    p50: float | None
    p99: float | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The tally at one moment.

    Attributes:
        elapsed_s: since the start.
        devices: in all.
        provisioned: devices that a hub was assigned to.
        states: devices by `State`, without the empty ones.
        registrations: that ended well, also of a device that registered again.
        registrations_per_s: since the last snapshot; so is every rate.
        messages: acknowledged telemetry.
        messages_per_s: likewise.
        held_back: messages not sent because too many were not acknowledged yet.
        ack_ms: since the last snapshot.
        twin_reports: that were accepted.
        desired_versions: devices by the version of the desired properties they have applied.
        methods: direct methods answered.
        cloud_to_device: messages received and completed.
        reconnects: devices that were connected again after they had lost their connection.
        renewals: tokens renewed.
        errors: by kind.
    """

    elapsed_s: float
    devices: int
    provisioned: int
    states: dict[str, int]
    registrations: int
    registrations_per_s: float
    messages: int
    messages_per_s: float
    held_back: int
    ack_ms: AckTimes
    twin_reports: int
    desired_versions: dict[str, int]
    methods: int
    cloud_to_device: int
    reconnects: int
    renewals: int
    errors: dict[str, int]

    @property
    def connected(self) -> int:
        """Devices that are connected."""
        return self.states.get(State.CONNECTED, 0)

    @property
    def failed(self) -> int:
        """Devices that have given up."""
        return self.states.get(State.FAILED, 0)


@final
class Tally:
    """Counts.

    Args:
        devices: in all.
        now: the start, in seconds of any steady clock.
    """

    def __init__(self, devices: int, now: float) -> None:
        self.states: Counter[State] = Counter({State.IDLE: devices})
        self.provisioned = 0
        self.registrations = 0
        self.messages = 0
        self.held_back = 0
        self.twin_reports = 0
        self.desired_versions: Counter[int] = Counter()
        self.methods = 0
        self.cloud_to_device = 0
        self.reconnects = 0
        self.renewals = 0
        self.errors: Counter[str] = Counter()
        self.ack_times = Latencies()
        self._all_ack_times = Latencies()
        self._devices = devices
        self._start = now
        self._last = now, 0, 0

    def move(self, old: State, new: State) -> None:
        """Note that a device is in another state now."""
        self.states[old] -= 1
        self.states[new] += 1

    def applied(self, old: int, new: int) -> None:
        """Note that a device has applied other desired properties; 0 for none."""
        if old:
            self.desired_versions[old] -= 1
        if new:
            self.desired_versions[new] += 1

    def snapshot(self, now: float) -> Snapshot:
        """Return the state of things; rates are since the last call."""
        then, registrations, messages = self._last
        found = self._snapshot(now, then, registrations, messages, self.ack_times)
        self._last = now, self.registrations, self.messages
        self._all_ack_times.absorb(self.ack_times)
        return found

    def summary(self, now: float) -> Snapshot:
        """Return the same over the whole run."""
        self._all_ack_times.absorb(self.ack_times)
        return self._snapshot(now, self._start, 0, 0, self._all_ack_times)

    def _snapshot(
        self, now: float, then: float, registrations: int, messages: int, times: Latencies
    ) -> Snapshot:
        span = max(now - then, 1e-9)
        return Snapshot(
            elapsed_s=round(now - self._start, 3),
            devices=self._devices,
            provisioned=self.provisioned,
            states={state.value: count for state, count in self.states.items() if count},
            registrations=self.registrations,
            registrations_per_s=round((self.registrations - registrations) / span, 1),
            messages=self.messages,
            messages_per_s=round((self.messages - messages) / span, 1),
            held_back=self.held_back,
            ack_ms=AckTimes(_ms(times.percentile(0.5)), _ms(times.percentile(0.99))),
            twin_reports=self.twin_reports,
            desired_versions={
                str(version): count
                for version, count in sorted(self.desired_versions.items())
                if count
            },
            methods=self.methods,
            cloud_to_device=self.cloud_to_device,
            reconnects=self.reconnects,
            renewals=self.renewals,
            errors=dict(self.errors),
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
