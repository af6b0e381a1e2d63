"""9: reported properties: patches of twins, each of them committed before it is answered.

A device is held to ten requests a second (`mqtt_session.REQUEST_PACE`), so the rate is that of many
devices. There is no peer: nothing else that runs here keeps twins.
"""

from __future__ import annotations

from benchmarks.load.job import Result
from benchmarks.place import directory, load
from benchmarks.report import Row, cost
from benchmarks.service import muster


def twins(*, quick: bool) -> list[Row]:
    """Measure reported properties of devices that never pause."""
    count, seconds, runs = (100, 2.0, 1) if quick else (1_000, 5.0, 3)
    results: list[Result] = []
    with directory() as work, muster(work / "data") as service:
        devices = service.devices(count)
        # Each may send a hundred at once before its pace begins.
        job = {"devices": devices, "seconds": seconds, "warm_up_s": 1.0 if quick else 12.0}
        results = [load(service.job("twins", **job)) for _ in range(runs)]
    row = cost(f"twin patches of {count:,} devices", "muster", results)
    seen = row.details
    row.note = f"p50 {seen['p50']:.1f} ms, p99 {seen['p99']:.1f} ms; ten a second and device"
    return [row]
