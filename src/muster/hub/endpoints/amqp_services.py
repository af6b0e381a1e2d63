"""What all AMQP connections of the hubs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.connections import CONNECT_PACE, CONNECT_PATIENCE_S
from muster.model.decision import Decision
from muster.model.pacing import Pacer

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.authentication import Authenticator
    from muster.hub.endpoints.amqp_link import LinkService
    from muster.hub.hubs import Hubs
    from muster.ids import Randomness
    from muster.model.decision import Fact


@final
class AmqpServices:
    """What all connections share.

    Args:
        hubs: the hubs of this service.
        authenticator: checks credentials.
        links: who serves links; the first that takes one has it.
        decisions: where refusals are recorded.
        clock: for expiry and pacing.
        randomness: for tracking IDs.
    """

    __slots__ = (
        "authenticator",
        "clock",
        "decisions",
        "hubs",
        "links",
        "randomness",
        "refusals",
    )

    def __init__(
        self,
        *,
        hubs: Hubs,
        authenticator: Authenticator,
        links: tuple[LinkService, ...],
        decisions: DecisionLog,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.hubs = hubs
        self.authenticator = authenticator
        self.links = links
        self.decisions = decisions
        self.clock = clock
        self.randomness = randomness
        # By host and subject, as for MQTT: whoever knows no key cannot use up the turns of the
        # device that does.
        self.refusals: Pacer[tuple[str, str]] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)

    def decide(
        self,
        hub: str,
        subject: str,
        check: str,
        facts: dict[str, Fact],
        *,
        tracking_id: str = "",
        outcome: str = "refused",
    ) -> None:
        """Record why something was refused or, as `outcome`, `closed`.

        Args:
            hub: host of the hub.
            subject: who or what.
            check: what decided.
            facts: for whoever asks.
            tracking_id: what the client was told; none for a new one.
            outcome: as it is recorded.
        """
        self.decisions.record(
            Decision(
                tracking_id=tracking_id or self.randomness.uuid(),
                time=self.clock.now(),
                service=hub,
                operation="connect",
                subject=subject,
                outcome=outcome,
                check=check,
                facts=facts,
            )
        )
