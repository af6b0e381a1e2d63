"""15: the edge runtime: from nothing to a running module, what it takes, what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from benchmarks import device, peers
from benchmarks.load.job import Device
from benchmarks.load.meter import cpu_s
from benchmarks.place import CLOCK, BenchmarkError, directory, find, load
from benchmarks.report import Row
from benchmarks.service import HOST, Muster, muster
from muster.hub.telemetry import DEFAULT_PARTITIONS
from muster.store.data_directory import DataDirectory
from muster.store.journal import Journal

_MODULES: Final = 50
_IDLE_MODULES: Final = 2
_MIB: Final = 2**20
_OFFICIAL: Final = {"https_port": 443, "mqtt_port": 8883}


def edge(*, quick: bool) -> list[Row]:
    """Measure a device and its service on one processor; who sends through them has another."""
    rows = []
    with directory() as work, muster(work / "data", **_OFFICIAL) as service:
        device.enroll(service)
        rows += _first_module(work, service)
        rows += _idle(work, service, 10.0 if quick else 60.0)
        rows += _many(work, service)
    rows += _through(quick=quick)
    return rows


def _first_module(work: Path, service: Muster) -> list[Row]:
    start = CLOCK.monotonic()
    with device.edge(work, service) as found:
        device.until(lambda: _provisioned(service), "provisioning")
        provisioned = CLOCK.monotonic() - start
        device.deploy(service, 1)
        device.until(lambda: found.running() == 1, "a running module")
        took = CLOCK.monotonic() - start
    note = f"provisioned after {provisioned:.1f} s, then deployed to"
    return [
        Row(what="config dps to first module", subject="muster", value=took, unit="s", note=note)
    ]


def _provisioned(service: Muster) -> bool:
    try:
        service.hub().call("GET", f"/twins/{device.DEVICE}/modules/$edgeAgent")
    except BenchmarkError:
        return False
    return True


def _idle(work: Path, service: Muster, seconds: float) -> list[Row]:
    device.deploy(service, _IDLE_MODULES)
    with device.edge(work, service) as found:
        device.until(lambda: found.running() == _IDLE_MODULES, "two running modules")
        time.sleep(5)  # what a start leaves behind is done
        before = cpu_s([found.process.pid])[0]
        time.sleep(seconds)
        used = cpu_s([found.process.pid])[0] - before
        memory = found.resident()
    what = f"idle with {_IDLE_MODULES} modules"
    return [
        Row(what=f"{what}, memory", subject="muster", value=memory / _MIB, unit="MiB"),
        Row(what=f"{what}, processor", subject="muster", value=100 * used / seconds, unit="%"),
    ]


def _many(work: Path, service: Muster) -> list[Row]:
    with device.edge(work, service) as found:
        device.until(lambda: found.running() >= 1, "a running module")
        before = cpu_s([found.process.pid])[0]
        start = CLOCK.monotonic()
        device.deploy(service, _MODULES)
        device.until(lambda: found.running() == _MODULES, f"{_MODULES} running modules")
        took = CLOCK.monotonic() - start
        used = cpu_s([found.process.pid])[0] - before
    note = f"{used:.1f} s of processor time of the runtime's own"
    what = f"{_MODULES} process modules reconciled"
    return [Row(what=what, subject="muster", value=took, unit="s", note=note)]


def _through(*, quick: bool) -> list[Row]:
    """Send through the edge hub, with the hub there and, for the drain, away first."""
    seconds, buffered_s = (3.0, 3.0) if quick else (10.0, 25.0)
    fields = {"seconds": seconds, "warm_up_s": 0.0, "window": 500, "batch": 20}
    rows = []
    with directory() as work:
        data = work / "data"
        with muster(data, **_OFFICIAL) as service:
            device.enroll(service)
            with device.edge(work, service) as found:
                device.until(lambda: _provisioned(service), "provisioning")
                device.deploy(service, _IDLE_MODULES)
                device.until(lambda: found.running() == _IDLE_MODULES, "two running modules")
        with muster(data, **_OFFICIAL) as service:
            login = device.sender(service)
        total = 0
        with contextlib.ExitStack() as stack:
            service = stack.enter_context(muster(data, **_OFFICIAL))
            with device.edge(work, service) as found:
                job = found.job(found.ca_file, login, **fields)
                start = CLOCK.monotonic()
                accepted = load(job)
                device.until(lambda: found.waiting() == 0, "an empty queue", 900.0)
                took = CLOCK.monotonic() - start
                total += accepted.operations
                rows.append(_sent("through the edge hub", "muster", accepted.operations, took))
                rows.append(
                    Row(
                        what="accepted by the edge hub",
                        subject="muster",
                        value=accepted.server_us,
                        unit="us/op",
                        rate=accepted.rate,
                    )
                )
                stack.close()  # the hub is away
                fields["seconds"] = buffered_s
                stored = load(found.job(found.ca_file, login, **fields))
                total += stored.operations
                waiting = found.waiting()
                stack.enter_context(muster(data, **_OFFICIAL))
                device.until(lambda: found.waiting() < waiting, "the first message", 300.0)
                start, waiting = CLOCK.monotonic(), found.waiting()
                device.until(lambda: found.waiting() == 0, "an empty queue", 1_800.0)
                took = CLOCK.monotonic() - start
                rows.append(_sent(f"drain of {waiting:,} messages", "muster", waiting, took))
        kept = asyncio.run(_kept(data))
        rows[-1].note = f"{kept:,} in the hub's log of at least {total:,} acknowledged"
        if kept < total:
            rows[-1].note = f"LOST: {rows[-1].note}"
        if find("mosquitto"):
            rows.append(_bridge(data, seconds))
            rows[-1].ratio = (rows[0].rate or 0.0) / (rows[-1].rate or 1.0)
    return rows


def _sent(what: str, subject: str, count: int, took: float) -> Row:
    return Row(what=what, subject=subject, value=took / count * 1e6, unit="us", rate=count / took)


async def _kept(data: Path) -> int:
    """Count what the hub's log has; the service does not run."""
    with DataDirectory.open(data) as place:
        journal = await Journal.open(place.journal_directory(HOST), DEFAULT_PARTITIONS, clock=CLOCK)
        try:
            return sum(journal.bounds(each)[1] for each in range(DEFAULT_PARTITIONS))
        finally:
            await journal.close()


def _bridge(data: Path, seconds: float) -> Row:
    """Send through a mosquitto that keeps messages on disk and bridges to another one."""
    with directory() as work, peers.bridge(work, data / "ca") as (below, arrived):
        job = below.job(
            "telemetry",
            devices=[Device("sender", topic="plant/messages")],
            seconds=seconds,
            warm_up_s=0.0,
            window=500,
            batch=20,
        )
        start = CLOCK.monotonic()
        sent = load(job)
        device.until(lambda: arrived() >= sent.operations, "the last message", 600.0)
        took = CLOCK.monotonic() - start
    return _sent("through a bridge", "mosquitto, persistence on", sent.operations, took)
