"""How a command fails: one line that says what, then what to do next. Never a traceback.

Exit codes (design.md 3): 1 the service said no or the operation failed, 2 wrong usage (click's
own `UsageError`), 3 the service cannot be reached.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import IO, TYPE_CHECKING, Any, Final

import click

from muster.terminal.output import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPLAINED: Final = (401, 403, 429)
"""Statuses whose reason the service keeps for `muster registration explain`."""

ALREADY_THERE: Final = "409201"
"""The provisioning service's code for a create that found the thing there."""

_HUB_MESSAGE: Final = re.compile(r"ErrorCode:\s*(?P<code>\w+);?\s*(?P<text>.*)", re.DOTALL)
# What to do about errors of a hub, by their names.
_STEPS: Final = {
    "DeviceNotFound": "muster device list (IDs are case-sensitive in a hub)",
    "ModuleNotFound": "muster module list DEVICE_ID (IDs are case-sensitive in a hub)",
    "DeviceNotOnline": "the device must be connected and have subscribed to methods; "
    "--connect-timeout SECONDS waits for it",
    "DeviceConnectionClosedRemotely": "the device may or may not have done it: call again when it "
    "is connected",
    "DeviceMaximumQueueDepthExceeded": "the device has to receive some first; or remove them all: "
    "muster message purge DEVICE_ID",
    "DeviceMessageLockLost": "muster message receive DEVICE_ID locks a message anew",
    "JobNotFound": "muster job list; a job is kept for 30 days after its end",
    "JobRunPreconditionFailed": "muster job show JOB_ID says how it ended; there is nothing to "
    "cancel",
    "JobAlreadyExists": "choose another --job-id; IDs are used once in 30 days",
    "GatewayTimeout": "--timeout SECONDS gives the device longer",
}
_TRACKING: Final = re.compile(r"Tracking ID:\s*(?P<id>[0-9A-Fa-f-]{32,36})")


class FailedError(click.ClickException):
    """The service said no, or the operation failed.

    Args:
        message: what happened, one line.
        details: more about it, a line each.
        next_step: what to do now.
    """

    exit_code = 1

    def __init__(self, message: str, *, details: tuple[str, ...] = (), next_step: str = "") -> None:
        self.headline = message
        self.details = details
        lines = [message, *(f"  {line}" for line in details)]
        if next_step:
            lines.append(f"  Next: {next_step}")
        super().__init__(printable("\n".join(lines), keep="\n"))

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to stderr."""
        click.echo(f"Error: {self.format_message()}", file=file, err=file is None)


class RefusedError(FailedError):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        code: the service's own code: a number (provisioning service) or a name (hub).
        text: the service's own words.
        tracking_id: by which the service's log and `explain` know the call; empty if it gave none.
    """

    def __init__(
        self, *, status: int, code: str, text: str, tracking_id: str, next_step: str
    ) -> None:
        self.status = status
        self.code = code
        self.text = text
        self.tracking_id = tracking_id
        facts = [f"HTTP {status}"]
        if code:
            facts.append(f"error {code}")
        if tracking_id:
            facts.append(f"tracking ID {tracking_id}")
        super().__init__(
            text or f"The service answered with HTTP {status}",
            details=(", ".join(facts),),
            next_step=next_step,
        )

    def with_next(self, step: str) -> RefusedError:
        """Return the same with another next step, for a command that knows better."""
        return RefusedError(
            status=self.status,
            code=self.code,
            text=self.text,
            tracking_id=self.tracking_id,
            next_step=step,
        )


class UnreachableError(FailedError):
    """There is no service, or no way to it.

    Args:
        message: what happened, one line.
        details: more about it, a line each.
        next_step: what to do now.
        arrived: whether what was sent may have reached the service all the same.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        details: tuple[str, ...] = (),
        next_step: str = "",
        arrived: bool = False,
    ) -> None:
        super().__init__(message, details=details, next_step=next_step)
        self.arrived = arrived


def read_error(
    status: int, headers: Mapping[str, str], body: Any, context: click.Context | None
) -> RefusedError:
    """Turn an error answer into a failure.

    Args:
        status: of the answer.
        headers: of the answer, case-insensitive.
        body: its JSON; `None` when it had none. The provisioning service's shape
            (dps.md 1.6) and the hub's (hub-service.md 2.2) are known.
        context: of the running command, for the next step.
    """
    code, text, tracking_id = "", "", headers.get("x-ms-request-id", "")
    if isinstance(body, dict):
        if "Message" in body:
            code, text, found = _hub_error(body)
        else:
            code, text = str(body.get("errorCode", "")), str(body.get("message", ""))
            found = str(body.get("trackingId", ""))
        tracking_id = found or tracking_id
    code = headers.get("iothub-errorcode", "") or code
    return RefusedError(
        status=status,
        code=code,
        text=text,
        tracking_id=tracking_id,
        next_step=_next_step(status, code, tracking_id, context),
    )


def _hub_error(body: dict[str, Any]) -> tuple[str, str, str]:
    message = str(body.get("Message", ""))
    if message.startswith("{"):
        # Method calls have another shape: the message is JSON in itself.
        with contextlib.suppress(ValueError):
            inner = json.loads(message)
            tracking_id = canonical_tracking_id(str(inner.get("trackingId", "")))
            return str(inner.get("errorCode", "")), str(inner.get("message", "")), tracking_id
    tracked = _TRACKING.search(str(body.get("ExceptionMessage", "")))
    tracking_id = canonical_tracking_id(tracked["id"]) if tracked else ""
    parts = _HUB_MESSAGE.match(message)
    return (parts["code"], parts["text"], tracking_id) if parts else ("", message, tracking_id)


def canonical_tracking_id(text: str) -> str:
    """Return a tracking ID as the service keeps it, whichever way a client showed it.

    The hub shows `<32 hex digits>-G:0-TimeStamp:…` (hub-service.md 2.2), the provisioning service
    a GUID. Anything else, for example a registration ID, is returned as it is.
    """
    digits = text.strip().partition("-G:")[0].replace("-", "").lower()
    if len(digits) != 32 or set(digits) - set("0123456789abcdef"):
        return text
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _next_step(status: int, code: str, tracking_id: str, context: click.Context | None) -> str:
    command = context.command_path if context is not None else "muster"
    noun = command.rpartition(" ")[0] or command
    if code in _STEPS:
        return _STEPS[code]
    if status in EXPLAINED and tracking_id:
        return (
            f"muster registration explain {tracking_id} (with a login that works) says why; "
            "muster info --json has the connection strings"
        )
    if status == 404:
        return f"{noun} list"
    if status == 409 and (code == ALREADY_THERE or "Already" in code):
        return f"it is there already: {noun} show, or {noun} update"
    if status == 412:
        return "somebody changed it meanwhile: show it again, then repeat with its new --etag"
    if status in (400, 405, 413, 415):
        return f"{command} --help"
    if status >= 500:
        return "the service's log has the reason" + (f" under {tracking_id}" * bool(tracking_id))
    return ""
