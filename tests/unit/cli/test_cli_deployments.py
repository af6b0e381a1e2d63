"""Deployments: what is shown."""

from __future__ import annotations

from unit.cli.cli_service import CliService
from unit.cli.conftest import Run


def test_who_failed_and_why_is_a_command_away(run: Run, service: CliService) -> None:
    results = {"targetedCount": 1, "appliedCount": 1, "reportedFailedCount": 1}
    watched = {"id": "d1", "targetCondition": "*", "systemMetrics": {"results": results}}
    service.on("GET", "/configurations/d1", watched)
    service.on("POST", "/devices/query", [{"found": 1}])
    shown = run("deployment", "watch", "d1")
    assert shown.stdout == "matching 1  targeted 1  applied 1  succeeded 0  failed 1\n"
    assert "muster deployment show-metric d1 reportedFailedCount" in shown.stderr
    assert "muster deployment explain d1 --device ID" in shown.stderr
