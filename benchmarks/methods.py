"""6: direct methods, beside a bare NATS request and reply."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.load.job import Device, Result
from benchmarks.place import directory, find, load
from benchmarks.report import Row, cost
from benchmarks.service import muster

_DEVICES = 64


def methods(*, quick: bool) -> list[Row]:
    """Measure calls of devices over HTTPS and MQTT: one at a time, then 32 at a time."""
    rows: list[Row] = []
    runs, seconds = (1, 2.0) if quick else (3, 5.0)
    for callers in (1, 32):
        window: dict[str, Any] = {"seconds": seconds, "connections": callers}
        with directory() as work:
            data = work / "data"
            ours, theirs = [], []
            with muster(data) as service:
                devices = service.devices(_DEVICES)
                names = [Device(each.client_id) for each in devices]
                for turn in range(runs):
                    ours.append(load(service.method_calls(devices, **window)))
                    if find("nats-server"):
                        place = work / str(turn)
                        place.mkdir()
                        with peers.nats_core(place) as peer:
                            theirs.append(load(peer.job("nats", devices=names, **window)))
        what = f"method round trip, {callers} at a time"
        rows.append(_row(what, "muster", ours))
        if theirs:
            rows.append(_row(what, "nats-server, request and reply, no TLS", theirs))
            rows[-1].ratio = rows[-1].value / rows[-2].value
    return rows


def _row(what: str, subject: str, results: list[Result]) -> Row:
    row = cost(what, subject, results)
    seen = row.details
    latency = f"p50 {seen['p50']:.2f} ms, p99 {seen['p99']:.2f} ms"
    row.note = "; ".join(filter(None, [latency, row.note]))
    return row
