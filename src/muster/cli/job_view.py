"""How a job is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from muster.cli.identity_fields import moment
from muster.terminal.output import show_json, show_record

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

COLLECTION: Final = "/jobs/v2"


def show_job(invocation: Invocation, found: dict[str, Any]) -> None:
    """Print a job, with its counts."""
    if invocation.as_json:
        show_json(found)
        return
    counts = found["deviceJobStatistics"]
    call = found.get("cloudToDeviceMethod") or {}
    change = found.get("updateTwin") or {}
    show_record(
        [
            ("Job ID", found["jobId"]),
            ("Type", found["type"]),
            ("Status", found["status"]),
            ("Reason", found.get("failureReason")),
            ("Condition", found["queryCondition"]),
            ("Method", call.get("methodName")),
            ("Payload", call.get("payload")),
            ("Tags", change.get("tags")),
            ("Desired", (change.get("properties") or {}).get("desired")),
            ("Created", moment(found["createdTime"])),
            ("Starts", moment(found["startTime"])),
            ("Ended", moment(found.get("endTime"))),
            ("Devices", counts["deviceCount"]),
            ("Succeeded", counts["succeededCount"]),
            ("Failed", counts["failedCount"]),
            ("Running", counts["runningCount"]),
            ("Pending", counts["pendingCount"]),
        ]
    )
