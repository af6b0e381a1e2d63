"""Who may call the service API: tokens of the service's access policies (dps.md 3.5)."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from muster.auth import access_policies
from muster.auth.access_policies import Right
from muster.clock import Clock
from muster.decisions.log import DecisionLog
from muster.errors import UnauthorizedError
from muster.model.decision import Decision
from muster.net.routing import tracking_id
from muster.provisioning.settings import ServiceSettings

_CHECKS = {
    "authorization-missing": "token-missing",
    "malformed-token": "token-malformed",
    "expired-token": "token-expired",
    "wrong-signature": "wrong-key",
    "wrong-resource": "wrong-audience",
}
"""Checks are named alike wherever a token is looked at (`decisions.explain`)."""


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
        try:
            access_policies.authorize(
                request.headers.get("authorization"),
                hosts=self._hosts,
                policies=self._settings.policy,
                needs=needs,
                now=self._clock.time(),
            )
        except UnauthorizedError as error:
            self._decisions.record(
                Decision(
                    tracking_id=tracking_id(request),
                    time=self._clock.now(),
                    service="dps",
                    operation="service",
                    subject=request.scope["path"][:128],
                    outcome="refused",
                    check=_CHECKS.get(error.code, error.code),
                    facts={
                        "reason": error.message,
                        "needs": " or ".join(needs),
                        "policy": error.subject or None,
                    },
                )
            )
            raise
