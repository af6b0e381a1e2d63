"""Jobs: what is sent, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from muster.cli import job_watch
from unit.cli.cli_service import CliService, hub_refusal
from unit.cli.conftest import Run, parsed


def shown(status: str = "completed", **counts: int) -> dict[str, Any]:
    names = ("deviceCount", "succeededCount", "failedCount", "runningCount", "pendingCount")
    return {
        "jobId": "j1",
        "type": "scheduleUpdateTwin",
        "status": status,
        "failureReason": None,
        "queryCondition": "tags.a = 1",
        "createdTime": "2026-01-01T00:00:00Z",
        "startTime": "2026-01-01T00:00:00.5Z",
        "updateTwin": {"etag": "*", "tags": {"b": 2}},
        "deviceJobStatistics": {name: counts.get(name, 0) for name in names},
    }


def test_a_twin_update(run: Run, service: CliService) -> None:
    service.on("PUT", "/jobs/v2/j1", shown("queued"))
    result = run(
        *("job", "create", "twin-update", "--job-id", "j1", "-q", "tags.a = 1"),
        *("--tags", '{"b": 2}', "--desired", '{"c": null}'),
        *("--start-time", "2026-12-24T18:00", "--duration", "60"),
    )
    assert service.calls[-1].body == {
        "jobId": "j1",
        "type": "scheduleUpdateTwin",
        "updateTwin": {"etag": "*", "tags": {"b": 2}, "properties": {"desired": {"c": None}}},
        "queryCondition": "tags.a = 1",
        "startTime": "2026-12-24T18:00:00+00:00",
        "maxExecutionTimeInSeconds": 60,
    }
    assert "tags.a = 1" in result.stdout
    assert "muster job watch j1" in result.stderr
    assert "--tags" in run("job", "create", "twin-update", "-q", "*", code=2).stderr


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("2026-12-24", "2026-12-24T00:00:00+00:00"),
        ("2026-12-24T18:00:00Z", "2026-12-24T18:00:00+00:00"),
        ("2026-12-24T18:00+01:00", "2026-12-24T18:00:00+01:00"),
    ],
)
def test_times_are_given_as_everywhere(
    run: Run, service: CliService, given: str, sent: str
) -> None:
    service.on("PUT", "/jobs/v2/j1", shown("scheduled"))
    create = ("job", "create", "method", "reboot", "--job-id", "j1", "-q", "*")
    run(*create, "--start-time", given)
    assert service.calls[-1].body["startTime"] == sent
    refused = run(*create, "--start-time", "tomorrow", code=2)
    assert "2026-01-31T12:00:00Z" in refused.stderr


def test_a_job_that_is_over_is_not_cancelled(run: Run, service: CliService) -> None:
    refused = hub_refusal(412, "JobRunPreconditionFailed", "The job 'j1' is over.")
    service.on("POST", "/jobs/v2/j1/cancel", refused)
    result = run("job", "cancel", "j1", code=1)
    assert "muster job show JOB_ID" in result.stderr
    assert "etag" not in result.stderr


def test_a_method_is_watched(
    run: Run, service: CliService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watch, "_INTERVAL_S", 0.0)
    service.on("PUT", "/jobs/v2/j1", shown("queued"))
    service.on("GET", "/jobs/v2/j1", shown(deviceCount=3, succeededCount=2, failedCount=1))
    create = ("job", "create", "method", "reboot", "--job-id", "j1", "-q", "*", "--wait")
    result = run(*create, "--payload", "[1]", "--timeout", "9")
    assert service.calls[0].body["cloudToDeviceMethod"] == {
        "methodName": "reboot",
        "payload": [1],
        "responseTimeoutInSeconds": 9,
        "connectTimeoutInSeconds": 0,
    }
    assert service.calls[0].body["startTime"] is None
    assert result.stdout == "completed  devices 3  succeeded 2  failed 1  running 0  pending 0\n"
    assert "muster job devices j1 --failed" in result.stderr
    service.on("GET", "/jobs/v2/j1", {**shown("failed"), "failureReason": "The job has expired."})
    assert "The job is failed: The job has expired." in run("job", "watch", "j1", code=1).stderr


def test_who_watches_a_job_of_later_is_told_when_it_starts(
    run: Run, service: CliService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watch, "_INTERVAL_S", 0.0)
    looks = iter(["scheduled", "scheduled", "completed"])
    service.on("GET", "/jobs/v2/j1", lambda _: shown(next(looks)))
    result = run("job", "watch", "j1")
    assert result.stderr == "It starts at 2026-01-01T00:00:00Z.\n"
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["scheduled", "completed"]


def test_list_and_devices(run: Run, service: CliService) -> None:
    service.on("GET", "/jobs/v2/query", [shown(deviceCount=5)])
    listed = run("job", "list", "--status", "completed").stdout
    assert service.calls[-1].query["jobStatus"] == "completed"
    assert listed.splitlines()[1].split()[:3] == ["j1", "scheduleUpdateTwin", "completed"]
    service.on("GET", "/jobs/v2/it's", shown())
    rows = [
        {
            "deviceId": "d1",
            "status": "failed",
            "error": {"code": "DeviceNotOnline", "description": "No."},
        },
        {
            "deviceId": "d2",
            "status": "completed",
            "endTimeUtc": "2026-01-01T00:00:00.5Z",
            "outcome": {"deviceMethodResponse": {"status": 200, "payload": None}},
        },
    ]
    service.on("POST", "/devices/query", rows)
    result = run("job", "devices", "it's", "--failed")
    assert service.calls[-1].body == {
        "query": "SELECT * FROM devices.jobs WHERE jobId = 'it\\'s' AND status = 'failed'"
    }
    assert "DeviceNotOnline: No." in result.stdout
    assert '{"status":200,"payload":null}' in result.stdout
    assert parsed(run("job", "devices", "it's", "--json")) == rows


def test_cancel(run: Run, service: CliService) -> None:
    service.on("POST", "/jobs/v2/j1/cancel", shown("cancelled"))
    assert parsed(run("job", "cancel", "j1", "--json"))["status"] == "cancelled"
