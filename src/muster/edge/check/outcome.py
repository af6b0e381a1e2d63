"""What a check may find."""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]


class Result(enum.StrEnum):
    """The outcomes of `iotedge check` (edge.md 7.1)."""

    OK = "ok"
    WARNING = "warning"
    IGNORED = "ignored"
    """It has no meaning for this device."""
    SKIPPED = "skipped"
    """What it needs has failed before."""
    FATAL = "fatal"
    """So wrong that nothing else can be looked at."""
    ERROR = "error"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found.

    Attributes:
        result: see `Result`.
        details: what is wrong, then what to do, a line each.
        facts: for machines; no secrets.
    """

    result: Result
    details: tuple[str, ...] = ()
    facts: JsonObject = {}


OK = Outcome(result=Result.OK)
IGNORED = Outcome(result=Result.IGNORED)


class Problem(Exception):  # noqa: N818 - what a check finds is no error of ours
    """Ends a check with what is wrong and what to do about it.

    Args:
        what: is wrong.
        fix: what to do.
        result: how bad it is.
    """

    def __init__(self, what: str, fix: str, result: Result = Result.ERROR) -> None:
        super().__init__(what)
        self.outcome = Outcome(result=result, details=(what, f"Fix: {fix}"))


def warning(what: str, fix: str) -> Problem:
    """Return a problem that does not keep the device from working."""
    return Problem(what, fix, Result.WARNING)


class DaemonAwayError(Exception):
    """The daemon does not answer; the text says why."""
