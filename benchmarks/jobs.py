"""13: a job that changes many twins, beside the same changes one by one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.convergence import seed
from benchmarks.load.meter import cpu_s
from benchmarks.place import CLOCK, BenchmarkError, directory
from benchmarks.report import Row
from benchmarks.service import muster

if TYPE_CHECKING:
    from benchmarks.service import Caller, Muster

_PATIENCE_S: Final = 1_200.0


def jobs(*, quick: bool) -> list[Row]:
    """Measure a scheduled update of twins chosen by a condition."""
    count, singles = (2_000, 200) if quick else (100_000, 2_000)
    with directory() as work, muster(work / "data") as service:
        seed(service.hub(), count)
        job = _job(service, count)
        alone = _one_by_one(service, singles)
    alone.ratio = alone.value / job.value
    return [job, alone]


def _job(service: Muster, count: int) -> Row:
    hub = service.hub()
    body = {
        "jobId": "ring",
        "type": "scheduleUpdateTwin",
        "updateTwin": {"etag": "*", "tags": {"ring": 1}, "properties": {"desired": {"rate": 5}}},
        "queryCondition": "tags.site = 'a'",
        "startTime": "",
        "maxExecutionTimeInSeconds": 3_600,
    }
    used, began = cpu_s([service.process.pid])[0], CLOCK.monotonic()
    hub.call("PUT", "/jobs/v2/ring", body)
    seen = _wait(hub, began)
    took = CLOCK.monotonic() - began
    used = cpu_s([service.process.pid])[0] - used
    done = seen["deviceJobStatistics"]["succeededCount"]
    if done != count:
        raise BenchmarkError(f"the job changed {done} twins of {count}: {seen}")
    return Row(
        what=f"twin update of {count:,} devices",
        subject="muster, one job",
        value=used / count * 1e6,
        unit="us/op",
        rate=count / took,
        note=f"{took:.1f} s from the request to its end",
    )


def _wait(hub: Caller, began: float) -> dict[str, dict[str, int]]:
    while True:
        seen: dict[str, dict[str, int]] = hub.call("GET", "/jobs/v2/ring")
        if str(seen["status"]) not in {"queued", "scheduled", "running"}:
            return seen
        if CLOCK.monotonic() - began > _PATIENCE_S:
            raise BenchmarkError(f"the job does not end: {seen}")
        time.sleep(0.1)


def _one_by_one(service: Muster, count: int) -> Row:
    hub = service.hub()
    patch = {"tags": {"ring": 2}, "properties": {"desired": {"rate": 6}}}
    used, began = cpu_s([service.process.pid])[0], CLOCK.monotonic()
    for number in range(count):
        hub.call("PATCH", f"/twins/twin-{number:06}", patch)
    took = CLOCK.monotonic() - began
    used = cpu_s([service.process.pid])[0] - used
    return Row(
        what=f"twin update of {count:,} devices",
        subject="muster, PATCH after PATCH",
        value=used / count * 1e6,
        unit="us/op",
        rate=count / took,
    )
