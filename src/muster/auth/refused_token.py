"""Why a token of a caller was refused, as the decision log takes it down.

Both services refuse for the same reasons, so checks and facts have the same names in both; their
texts stand in `decisions.explain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from muster.auth import sas_token
from muster.clock import format_time
from muster.errors import UnauthorizedError

if TYPE_CHECKING:
    from datetime import datetime

    from muster.auth.sas_token import SasToken
    from muster.model.decision import Fact

_CHECKS: Final = {
    "malformed-token": "token-malformed",
    "expired-token": "token-expired",
    "wrong-signature": "wrong-policy-key",
    "wrong-resource": "wrong-audience",
}
_LONGEST: Final = 512


def parsed(text: str | None) -> SasToken | None:
    """Return the token, or `None` when there is none to be read."""
    try:
        return sas_token.parse(text) if text else None
    except UnauthorizedError:
        return None


def check(error: UnauthorizedError) -> str:
    """Return the name of the check that decided."""
    return _CHECKS.get(error.code, error.code)


def facts(
    error: UnauthorizedError, token: SasToken | None, *, expected: str, needs: str, now: datetime
) -> dict[str, Fact]:
    """Return what it was decided on; no secrets.

    Args:
        error: the refusal.
        token: what was checked, where it could be read.
        expected: the resource it should have been for.
        needs: the rights it should have had.
        now: when it was checked.
    """
    known: dict[str, Fact] = {"reason": error.message, "needs": needs}
    if token is None:
        return known
    known["policy"] = token.key_name and token.key_name[:128]
    if error.code == "expired-token":
        known["expired_for_s"] = round(now.timestamp() - token.expiry)
        known["token_expiry"] = token.expiry
        known["server_time"] = format_time(now)
    elif error.code == "wrong-resource":
        known["token_resource"] = token.resource[:_LONGEST]
        known["expected"] = expected
    return known
