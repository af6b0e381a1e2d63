"""Who may call the service API: tokens of the service's access policies (dps.md 3.5)."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from muster.auth import access_policies, refused_token
from muster.auth.access_policies import Right
from muster.clock import Clock
from muster.decisions.log import DecisionLog
from muster.errors import UnauthorizedError
from muster.model.decision import Decision
from muster.net.routing import tracking_id
from muster.provisioning.settings import ServiceSettings


class Access:
    """Checks the `Authorization` header of service calls and records refusals.

    Args:
        settings: the policies.
        hosts: names the service goes by.
        decisions: where refusals are taken down.
        clock: for expiry.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        hosts: Collection[str],
        decisions: DecisionLog,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._decisions = decisions
        self._clock = clock

    def check(self, request: Request, *needs: Right) -> None:
        """Let a call through that carries any one of these rights.

        Raises:
            UnauthorizedError: it does not; why is in the decision log.
        """
        header, now = request.headers.get("authorization"), self._clock.now()
        try:
            access_policies.authorize(
                header,
                hosts=self._hosts,
                path=request.scope["path"],
                policies=self._settings.policy,
                needs=needs,
                now=now.timestamp(),
            )
        except UnauthorizedError as error:
            self._decisions.record(
                Decision(
                    tracking_id=tracking_id(request),
                    time=now,
                    service="dps",
                    operation="service",
                    subject=request.scope["path"][:128],
                    outcome="refused",
                    check=refused_token.check(error),
                    facts=refused_token.facts(
                        error,
                        refused_token.parsed(header),
                        expected=next(iter(self._hosts)),
                        needs=" or ".join(needs),
                        now=now,
                    ),
                )
            )
            raise
