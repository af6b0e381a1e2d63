"""15: the edge runtime: from nothing to a running module, what it takes, what goes through it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from benchmarks import device, peers
from benchmarks.load.job import Device
from benchmarks.load.meter import cpu_s, memory
from benchmarks.place import CLOCK, directory, find, load
from benchmarks.report import Row
from benchmarks.service import OFFICIAL, Muster, muster

_MODULES: Final = 50
_IDLE_MODULES: Final = 2
_MIB: Final = 2**20
_SENDING: Final[dict[str, Any]] = {"warm_up_s": 0.0, "window": 500, "batch": 20}


def edge(*, quick: bool) -> list[Row]:
    """Measure a device and its service on one processor; who sends through them has another."""
    rows = []
    with directory() as work, muster(work / "data", **OFFICIAL) as service:
        device.enroll(service)
        rows += _first_module(work, service)
        rows += _idle(work, service, 10.0 if quick else 60.0)
        rows += _many(work, service)
    rows += _through(quick=quick)
    return rows


def _first_module(work: Path, service: Muster) -> list[Row]:
    start = CLOCK.monotonic()
    with device.edge(work, service) as found:
        device.until(lambda: device.provisioned(service), "provisioning")
        provisioned = CLOCK.monotonic() - start
        device.deploy(service, 1)
        device.until(lambda: found.running() == 1, "a running module")
        took = CLOCK.monotonic() - start
    note = f"provisioned after {provisioned:.1f} s, then deployed to"
    return [
        Row(what="config dps to first module", subject="muster", value=took, unit="s", note=note)
    ]


def _idle(work: Path, service: Muster, seconds: float) -> list[Row]:
    device.deploy(service, _IDLE_MODULES)
    with device.edge(work, service) as found:
        device.until(lambda: found.running() == _IDLE_MODULES, "two running modules")
        time.sleep(5)  # what a start leaves behind is done
        before = cpu_s([found.process.pid])[0]
        time.sleep(seconds)
        used = cpu_s([found.process.pid])[0] - before
        resident = memory([found.process.pid])
    what = f"idle with {_IDLE_MODULES} modules"
    return [
        Row(what=f"{what}, memory", subject="muster", value=resident / _MIB, unit="MiB"),
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
    """Send through the edge hub with the hub there, and through a bridge."""
    seconds = 3.0 if quick else 10.0
    rows = []
    with directory() as work:
        data = work / "data"
        with muster(data, **OFFICIAL) as service, device.sending(work, service) as (found, login):
            job = found.job(found.ca_file, login, seconds=seconds, **_SENDING)
            start = CLOCK.monotonic()
            accepted = load(job)
            device.until(lambda: found.waiting() == 0, "an empty queue", 900.0)
            took = CLOCK.monotonic() - start
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
        if find("mosquitto"):
            rows.append(_bridge(data, seconds))
            rows[0].ratio = (rows[0].rate or 0.0) / (rows[-1].rate or 1.0)
    return rows


def _sent(what: str, subject: str, count: int, took: float) -> Row:
    return Row(what=what, subject=subject, value=took / count * 1e6, unit="us", rate=count / took)


def _bridge(data: Path, seconds: float) -> Row:
    """Send through a mosquitto that keeps messages on disk and bridges to another one."""
    with directory() as work:
        bridge = peers.Bridge(work, data / "ca")
        with bridge.above() as arrived, bridge.below() as below:
            devices = [Device("sender", topic="plant/messages")]
            job = below.job("telemetry", devices=devices, seconds=seconds, **_SENDING)
            start = CLOCK.monotonic()
            sent = load(job)
            device.until(lambda: arrived() >= sent.operations, "the last message", 600.0)
            took = CLOCK.monotonic() - start
    return _sent("through a bridge", "mosquitto, persistence on", sent.operations, took)
