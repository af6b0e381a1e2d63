"""What all sessions of devices and modules share, whatever carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.desired_feed import DesiredFeed
from muster.model.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.cloud_to_device import CloudToDevice
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub
    from muster.hub.subscriptions import Subscriptions
    from muster.hub.telemetry import Telemetry
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.hub.twins import Twins
    from muster.ids import Randomness
    from muster.model.decision import Fact
    from muster.model.identity import IdentityRef


@final
class SessionServices:
    """What all sessions share."""

    __slots__ = (
        "clock",
        "cloud_to_device",
        "connections",
        "decisions",
        "randomness",
        "subscriptions",
        "telemetry",
        "twin_catch_up",
        "twins",
    )

    def __init__(
        self,
        *,
        connections: Connections,
        subscriptions: Subscriptions,
        telemetry: Telemetry,
        twins: Twins,
        twin_catch_up: TwinCatchUp,
        cloud_to_device: CloudToDevice,
        decisions: DecisionLog,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.connections = connections
        self.subscriptions = subscriptions
        self.telemetry = telemetry
        self.twins = twins
        self.twin_catch_up = twin_catch_up
        self.cloud_to_device = cloud_to_device
        self.decisions = decisions
        self.clock = clock
        self.randomness = randomness

    def feed(
        self,
        hub: Hub,
        ref: IdentityRef,
        generation_id: str,
        *,
        send: Callable[[bytes, int], None],
        heard_at: Callable[[], float],
    ) -> DesiredFeed | None:
        """Return what keeps a session from missing changes; `None` where that is off."""
        if not hub.twin_catch_up:
            return None
        return DesiredFeed(
            self.twin_catch_up, hub, ref, generation_id, send=send, heard_at=heard_at
        )

    def decide(
        self,
        hub: str,
        subject: str,
        check: str,
        facts: dict[str, Fact],
        *,
        outcome: str = "refused",
    ) -> None:
        """Record why a connection was refused or, as `outcome`, `closed`."""
        self.decisions.record(
            Decision(
                tracking_id=self.randomness.uuid(),
                time=self.clock.now(),
                service=hub,
                operation="connect",
                subject=subject,
                outcome=outcome,
                check=check,
                facts=facts,
            )
        )
