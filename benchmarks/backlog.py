"""16: a million messages wait on the device while the hub is away, then go up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import device, peers
from benchmarks.load.job import Device, Result
from benchmarks.load.meter import cpu_s, memory, peak
from benchmarks.place import CLOCK, directory, find, load
from benchmarks.report import Row
from benchmarks.service import HOST, OFFICIAL, muster
from muster.hub.telemetry import DEFAULT_PARTITIONS
from muster.store.data_directory import DataDirectory
from muster.store.journal import Journal

_COUNT: Final = 1_000_000
_QUICK_COUNT: Final = 50_000
_PATIENCE_S: Final = 1_800.0
_MIB: Final = 2**20
_PEER: Final = "mosquitto, persistence on"


def backlog(*, quick: bool) -> list[Row]:
    """Measure the edge hub, then a mosquitto that bridges to another one."""
    fields = {
        "count": _QUICK_COUNT if quick else _COUNT,
        "timeout_s": _PATIENCE_S,
        "warm_up_s": 0.0,
        "window": 500,
        "batch": 20,
    }
    with directory() as work:
        rows = _ours(work, fields)
        if find("mosquitto"):
            rows += _bridge(work, work / "data" / "ca", fields)
    return rows


def _ours(work: Path, fields: dict[str, Any]) -> list[Row]:
    data = work / "data"
    with contextlib.ExitStack() as services:
        service = services.enter_context(muster(data, **OFFICIAL))
        with device.sending(work, service) as (found, login):
            # The edge hub asks for whom it does not know, and knows it when the hub is away, too.
            first = load(found.job(found.ca_file, login, **fields | {"count": 1}))
            device.until(lambda: found.waiting() == 0, "an empty queue")
            services.close()
            pid = found.process.pid
            before = memory([pid])
            stored = load(found.job(found.ca_file, login, **fields))
            rows = _kept_rows("muster", stored, found.stored(), memory([pid]) - before)
            services.enter_context(muster(data, **OFFICIAL))
            waiting = found.waiting
            rows.append(_drained("muster", pid, waiting, stored.operations, before))
            # Not before what was delivered is deleted.
            device.until(lambda: found.stored() < _MIB, "the disk given back", 60.0)
    kept, sent = asyncio.run(_in_the_log(data)), first.operations + stored.operations
    lost = "" if kept >= sent else "LOST: "
    rows[-1].note += f"; {lost}{kept:,} in the hub's log of {sent:,} acknowledged"
    return rows


def _bridge(work: Path, ca: Path, fields: dict[str, Any]) -> list[Row]:
    bridge = peers.Bridge(work, ca)
    with bridge.below() as below:
        (pid,) = below.pids
        before = memory([pid])
        job = below.job("telemetry", devices=[Device("sender", topic="plant/messages")], **fields)
        stored = load(job)
        # It writes all of it anew, once a second.
        device.until(bridge.stored.exists, "mosquitto's file")
        size = bridge.stored.stat().st_blocks * 512
        rows = _kept_rows(_PEER, stored, size, memory([pid]) - before)
        with bridge.above() as arrived:
            total = stored.operations
            rows.append(_drained(_PEER, pid, lambda: max(0, total - arrived()), total, before))
    return rows


def _kept_rows(subject: str, stored: Result, size: int, grown: int) -> list[Row]:
    count = stored.operations
    note = f"{size / _MIB:.0f} MiB on disk; memory has grown by {grown / _MIB:.1f} MiB"
    return [
        Row(
            what=f"{count:,} messages kept, hub away",
            subject=subject,
            value=stored.server_us,
            unit="us/op",
            rate=stored.rate,
            note=f"in {stored.wall_s:.1f} s; {note}",
        )
    ]


def _drained(subject: str, pid: int, waiting: Callable[[], int], total: int, before: int) -> Row:
    """Wait until nothing is left; count from the first message that has gone."""
    device.until(lambda: waiting() < total, "the first message", 300.0)
    start, left, used = CLOCK.monotonic(), waiting(), cpu_s([pid])[0]
    device.until(lambda: waiting() == 0, "an empty queue", _PATIENCE_S)
    took, used = CLOCK.monotonic() - start, cpu_s([pid])[0] - used
    most = (peak(pid) - before) / _MIB
    return Row(
        what=f"{left:,} of them drained",
        subject=subject,
        value=used / left * 1e6,
        unit="us/op",
        rate=left / took,
        note=f"in {took:.1f} s; {most:.1f} MiB of memory more than before, at most",
    )


async def _in_the_log(data: Path) -> int:
    """Count what the hub's log has; the service does not run."""
    with DataDirectory.open(data) as place:
        journal = await Journal.open(place.journal_directory(HOST), DEFAULT_PARTITIONS, clock=CLOCK)
        try:
            return sum(journal.bounds(each)[1] for each in range(DEFAULT_PARTITIONS))
        finally:
            await journal.close()
