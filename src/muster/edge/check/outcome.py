"""What a check may find."""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import msgspec

from muster.edge.check.causes import Cause

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


BAD: Final = (Result.ERROR, Result.FATAL)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found.

    Attributes:
        result: see `Result`.
        cause: what is wrong; `None` for nothing.
        details: the same in words, then what to do, a line each.
        blocks: whether checks that need this one would only say the same again.
        facts: for machines; no secrets.
    """

    result: Result
    cause: Cause | None = None
    details: tuple[str, ...] = ()
    blocks: bool = False
    facts: JsonObject = {}


OK = Outcome(result=Result.OK)
IGNORED = Outcome(result=Result.IGNORED)


class Problem(Exception):  # noqa: N818 - what a check finds is no error of ours
    """Ends a check with what is wrong and what to do about it.

    Args:
        cause: what is wrong.
        what: the same in words.
        fix: what to do.
        result: how bad it is.
        blocks: see `Outcome`; `None` for what the result says.
    """

    def __init__(
        self,
        cause: Cause,
        what: str,
        fix: str,
        result: Result = Result.ERROR,
        *,
        blocks: bool | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.outcome = Outcome(
            result=result,
            cause=cause,
            details=(what, f"Fix: {fix}"),
            blocks=result in BAD if blocks is None else blocks,
        )


def warning(cause: Cause, what: str, fix: str, *, blocks: bool = False) -> Problem:
    """Return a problem that does not keep the device from working."""
    return Problem(cause, what, fix, Result.WARNING, blocks=blocks)


def skipped(cause: Cause, what: str, fix: str) -> Problem:
    """Return what keeps a check from finding out."""
    return Problem(cause, what, fix, Result.SKIPPED)


class DaemonAwayError(Exception):
    """The daemon does not answer; the text says why."""
