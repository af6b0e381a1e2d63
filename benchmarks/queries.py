"""7: queries over many twins: by an index, over all of them, page by page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.load.job import percentiles
from benchmarks.load.meter import cpu_s, memory
from benchmarks.place import CLOCK, directory
from benchmarks.report import Row
from benchmarks.service import Muster, muster
from muster.hub import twin_rows
from muster.hub.registry import SQL as IDENTITIES
from muster.model import twin as twin_rules
from muster.model.identity import IdentityRef
from muster.store.data_directory import DataDirectory
from muster.store.engine import Params, Statement
from muster.store.sqlite import SqliteEngine

_BATCH: Final = 5_000
_SITES: Final = 200
_INDEXED: Final = "tags.site = 'plant-7' AND tags.on = true"
_SCANNED: Final = "tags.firmware != '1.5'"


def queries(*, quick: bool) -> list[Row]:
    """Measure queries through the REST API."""
    count = 20_000 if quick else 1_000_000
    with directory() as work:
        data = work / "data"
        with muster(data):
            pass
        start = CLOCK.monotonic()
        asyncio.run(_seed(data, count))
        note = f"seeded in {CLOCK.monotonic() - start:.0f} s through the store, service stopped"
        with muster(data) as service:
            rows = _measure(service)
    rows[0].note = f"{rows[0].note}; {note}"
    for row in rows:
        row.what = f"{row.what}, {count:,} twins"
    return rows


def _measure(service: Muster) -> list[Row]:
    asked = _Asked(service)
    select = "SELECT deviceId FROM devices WHERE"
    every = "SELECT COUNT() AS n FROM devices WHERE"
    # The third time makes the index; the page of matches is shorter than the limit.
    query = f"{select} {_INDEXED}"
    (building, used), writes = _with_writes(
        service, lambda: max(asked.timed(query) for _ in range(3))
    )
    rows = [
        asked.row("query by an index, page of 100", f"{select} {_INDEXED}", 100),
        asked.row("count by an index", f"{every} {_INDEXED}", 50),
        asked.row("full scan", f"{every} {_SCANNED}", 5),
        asked.row("first page of 100 whole twins", "SELECT * FROM devices", 50),
        Row(
            what="making the index",
            subject="muster",
            value=building * 1_000,
            unit="ms",
            note=f"server CPU {used:,.1f} s, its other work included",
        ),
        Row(
            what="slowest PATCH of a twin meanwhile",
            subject="muster",
            value=max(writes) * 1_000,
            unit="ms",
            details={**percentiles(writes)},
            note=f"p50 {percentiles(writes)['p50']:.1f} ms, {len(writes)} calls, one at a time",
        ),
    ]
    before = memory([service.process.pid])
    start, found = CLOCK.monotonic(), asked.all("SELECT deviceId FROM devices")
    took = CLOCK.monotonic() - start
    grown = (memory([service.process.pid]) - before) / 2**20
    rows.append(
        Row(
            what="all IDs, 1,000 a page",
            subject="muster",
            value=took,
            unit="s",
            rate=found / took,
            note=f"the service grew by {grown:.1f} MiB meanwhile",
        )
    )
    return rows


def _with_writes(
    service: Muster, work: Callable[[], tuple[float, float]]
) -> tuple[tuple[float, float], list[float]]:
    """Change a twin over and over while something else goes on."""
    latencies: list[float] = []
    over = threading.Event()

    def write() -> None:
        caller, number = service.hub(), 0
        while not over.wait(0.01):
            start, number = CLOCK.monotonic(), number + 1
            caller.call("PATCH", f"/twins/{_name(0)}", {"tags": {"number": number}})
            latencies.append(CLOCK.monotonic() - start)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return work(), latencies
    finally:
        over.set()
        thread.join()


class _Asked:
    """Asks the hub of a service."""

    def __init__(self, service: Muster) -> None:
        self._caller = service.hub()
        self._pid = service.process.pid

    def timed(self, query: str) -> tuple[float, float]:
        """Return the time a query takes, and the server's processor time."""
        used, start = cpu_s([self._pid])[0], CLOCK.monotonic()
        self._caller.call("POST", "/devices/query", {"query": query})
        return CLOCK.monotonic() - start, cpu_s([self._pid])[0] - used

    def row(self, what: str, query: str, times: int) -> Row:
        """Return the median time of a query asked some times."""
        self.timed(query)
        took, used = zip(*(self.timed(query) for _ in range(times)), strict=True)
        seen = percentiles(list(took))
        cpu = sum(used) / times * 1_000
        return Row(
            what=what,
            subject="muster",
            value=median(took) * 1_000,
            unit="ms p50",
            details={**seen, "server_cpu_ms": cpu},
            note=f"p99 {seen['p99']:,.1f} ms, server CPU {cpu:,.1f} ms",
        )

    def all(self, query: str) -> int:
        """Return how many results a query has, read page by page."""
        found, headers = 0, {"x_ms_max_item_count": "1000"}
        while True:
            page, answer = self._caller.exchange(
                "POST", "/devices/query", {"query": query}, **headers
            )
            found += len(page)
            continuation = answer.get("x-ms-continuation")
            if not continuation:
                return found
            headers["x_ms_continuation"] = continuation


async def _seed(data: Path, count: int) -> None:
    """Write devices with their twins, without HTTP; the service does not run."""
    now = CLOCK.now()
    with DataDirectory.open(data) as directory_:
        engine = await SqliteEngine.open(directory_.database)
        try:
            for first in range(0, count, _BATCH):
                numbers = range(first, min(first + _BATCH, count))
                await engine.write(
                    Statement(IDENTITIES["insert_device"], [_device(each) for each in numbers]),
                    Statement(twin_rows.SQL["insert"], [_twin(each, now) for each in numbers]),
                )
        finally:
            await engine.close()


def _name(number: int) -> str:
    return f"query-{number:07}"


def _device(number: int) -> Params:
    return {
        "hub": 1,
        "device_id": _name(number),
        "generation_id": str(number),
        "etag": "MQ==",
        "enabled": 1,
        "status_reason": None,
        "status_updated_at": 0.0,
        "auth_type": "sas",
        "keys": b"k" * 128,
        "iot_edge": number % 2,
        "parent_scope": None,
        "primary_thumbprint": None,
        "secondary_thumbprint": None,
    }


def _twin(number: int, now: Any) -> Params:
    tags = {
        "site": f"plant-{number % _SITES}",
        "firmware": f"1.{number % 30}",
        "on": number % 3 == 0,
        "owner": {"name": f"team {number % 12}", "phone": "+49 30 1234567"},
    }
    desired = {"telemetry": {"interval": 30, "unit": "s"}, "target": f"1.{number % 31}"}
    twin = twin_rules.new(tags, desired, now)
    reported = {"firmware": {"version": f"1.{number % 30}"}, "battery": number % 100}
    twin = twin_rules.patch_reported(twin, reported, now)
    return twin_rows.to_params(IdentityRef(1, _name(number)), twin)
