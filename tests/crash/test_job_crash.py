"""A job goes on after a kill -9, and does no twin twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

DEVICES = 3_000
PATIENCE_S = 60.0
OVER = {"completed", "failed", "cancelled"}


def wait(instance: Instance, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job: dict[str, Any] = instance.hub().must("GET", "/jobs/v2/rollout")
        if done(job):
            return job
        assert time.monotonic() < deadline, job


def test_kill_9_in_the_middle_of_a_job(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance()
    hub = instance.hub()
    names = [f"d{number}" for number in range(DEVICES)]
    for start in range(0, DEVICES, 100):
        entries = [{"id": name, "importMode": "create"} for name in names[start : start + 100]]
        hub.must("POST", "/devices", entries)
    body = {
        "type": "scheduleUpdateTwin",
        "queryCondition": "*",
        "updateTwin": {"tags": {"wave": 1}, "properties": {"desired": {"level": 2}}},
    }
    hub.must("PUT", "/jobs/v2/rollout", body)
    seen: list[int] = []
    for part in (1, DEVICES // 3, 2 * DEVICES // 3):
        job = wait(
            instance,
            lambda each, part=part: (
                each["status"] in OVER  # type: ignore[misc]
                or each["deviceJobStatistics"]["succeededCount"] >= part
            ),
        )
        seen.append(job["deviceJobStatistics"]["succeededCount"])
        instance.kill9()
        instance.start()
    job = wait(instance, lambda each: each["status"] in OVER)
    # Else the kills came too late to test anything.
    assert 0 < seen[0] < DEVICES
    assert job["status"] == "completed"
    counts = job["deviceJobStatistics"]
    assert (counts["deviceCount"], counts["succeededCount"]) == (DEVICES, DEVICES)
    query = "SELECT COUNT() AS n FROM devices WHERE tags.wave = 1 AND version = 3"
    assert instance.hub().must("POST", "/devices/query", {"query": query}) == [{"n": DEVICES}]
    assert "Traceback" not in instance.log_text()
