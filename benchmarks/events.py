"""10: reading events with azure-eventhub, and how much of the time is the client's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from statistics import median_low
from typing import Final

import msgspec

from benchmarks.load.events import ReaderJob, Reading
from benchmarks.load.meter import cpu_s
from benchmarks.place import ADDRESS, CLOCK, ROOT, BenchmarkError, directory, pinned_client
from benchmarks.report import Row
from benchmarks.service import HOST, Muster, muster
from muster.hub.telemetry import DEFAULT_PARTITIONS
from muster.model.message import AuthScope, Stamp, encode_head, encode_stamp
from muster.store.data_directory import DataDirectory
from muster.store.journal import Journal

_BODY: Final = b'{"temperature": 21.5, "humidity": 40.25, "pressure": 1013.1, "pad": "%s"}' % (
    b"x" * 120
)
_DEVICES: Final = 200
_BATCH: Final = 1_000


def events(*, quick: bool) -> list[Row]:
    """Measure reading of one partition from its beginning."""
    count, runs = (5_000, 1) if quick else (60_000, 3)
    with directory() as work:
        data = work / "data"
        with muster(data):
            pass
        asyncio.run(_seed(data, count))
        with muster(data) as service:
            taken = [(sdk, _read(service, count, sdk=sdk)) for _ in range(runs) for sdk in (1, 0)]
    return [
        _row("azure-eventhub", [each for sdk, each in taken if sdk]),
        _row("a client that counts frames", [each for sdk, each in taken if not sdk]),
    ]


def _row(client: str, readings: list[tuple[Reading, float]]) -> Row:
    middle = median_low([used / reading.events for reading, used in readings])
    reading, used = next(each for each in readings if each[1] / each[0].events == middle)
    share = reading.client_cpu_s / reading.wall_s
    return Row(
        what=f"reading events with {client}",
        subject="muster",
        value=used / reading.events * 1e6,
        unit="µs server CPU",
        rate=reading.events / reading.wall_s,
        details={"client_us": reading.client_cpu_s / reading.events * 1e6, "client_share": share},
        note=f"client {reading.client_cpu_s / reading.events * 1e6:.1f} µs an event, "
        f"busy {share:.0%} of the time",
    )


def _read(service: Muster, count: int, *, sdk: int) -> tuple[Reading, float]:
    """Read all of a partition; return how it went and the server's processor time."""
    job = ReaderJob(
        sdk=bool(sdk),
        address=ADDRESS,
        port=service.facts["ports"]["amqp"],
        host=HOST,
        ca_file=service.facts["caFile"],
        connection_string=service.facts["hubs"][0]["eventHubConnectionString"],
        token=service.hub().token,
        count=count,
    )
    pids = [service.process.pid]
    before = cpu_s(pids)[0]
    done = subprocess.run(
        pinned_client([sys.executable, "-m", "benchmarks.load.events"]),
        input=msgspec.json.encode(job),
        capture_output=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    used = cpu_s(pids)[0] - before
    if done.returncode:
        raise BenchmarkError(done.stderr.decode()[-2_000:])
    return msgspec.json.decode(done.stdout, type=Reading), used


async def _seed(data: Path, count: int) -> None:
    """Write events of many devices into one partition; the service does not run."""
    heads = [
        encode_stamp(Stamp(f"device-{number:04}", "", "1", AuthScope.DEVICE))
        + encode_head("%24.ct=application%2Fjson&%24.ce=utf-8&site=plant-7")
        for number in range(_DEVICES)
    ]
    with DataDirectory.open(data) as place:
        journal = await Journal.open(place.journal_directory(HOST), DEFAULT_PARTITIONS, clock=CLOCK)
        try:
            for first in range(0, count, _BATCH):
                numbers = range(first, min(first + _BATCH, count))
                await journal.append(0, [heads[each % _DEVICES] + _BODY for each in numbers])
        finally:
            await journal.close()
