"""`iotedge check` against a running daemon, and what it reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.edge.check.causes import Cause
    from support.edge_daemon import EdgeDaemon


def check(daemon: EdgeDaemon, *options: str) -> dict[str, Any]:
    """Run all checks and return the outcomes, by their IDs."""
    done = daemon.iotedge("check", "-c", str(daemon.config), "-o", "json", *options)
    checks: dict[str, Any] = json.loads(done.stdout)["checks"]
    bad = [each for each in checks.values() if each["result"] in ("error", "fatal")]
    assert done.returncode == (1 if bad else 0)
    return checks


def reported(checks: dict[str, Any], name: str, cause: Cause, result: str = "error") -> str:
    """Return what a check has to say; its cause and result are as given."""
    found = checks[name]
    assert (found["additional_info"].get("cause"), found["result"]) == (cause, result), found
    return " | ".join(found["details"])


def passes(checks: dict[str, Any], name: str) -> bool:
    """Return whether a check has nothing to say."""
    found = checks[name]
    return (found["result"], found["details"]) == ("ok", [])
