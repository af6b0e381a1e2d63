"""A decision of the service about a device or caller: what was decided, and which check decided."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

Fact: TypeAlias = str | int | float | bool | None


class Decision(msgspec.Struct, frozen=True):
    """One recorded outcome.

    `facts` never hold a key, a signature or a token: they are shown to operators and logged.
    """

    tracking_id: str
    """The GUID that the client saw in the error body, or that only the record knows."""
    time: datetime
    service: str
    """`dps`, or the host name of a hub."""
    operation: str
    """`register`, `connect`, `service` (a REST call of an operator or back end) or `fault`."""
    subject: str
    """Registration ID, device ID (`device/module`), or the path that was asked for."""
    outcome: str
    """`assigned`, `failed`, `disabled` or `refused`; `closed` of a live
    connection; of a fault what it did."""
    check: str
    """The check that decided; a row of `decisions.explain.EXPLANATIONS`."""
    facts: dict[str, Fact] = {}
