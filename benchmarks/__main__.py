"""`python -m benchmarks [NAME…] [--quick]`: measures, prints a table, writes JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Final

from benchmarks import (
    amqp,
    backlog,
    connections,
    convergence,
    devicebound,
    edge,
    events,
    fleet,
    jobs,
    methods,
    queries,
    report,
    transports,
    twins,
)
from benchmarks.place import BenchmarkError

_BENCHMARKS: Final[dict[str, Callable[..., list[report.Row]]]] = {
    "registration": connections.registration,
    "telemetry": connections.telemetry,
    "idle": connections.idle,
    "storm": fleet.storm,
    "scale": fleet.scale,
    "methods": methods.methods,
    "query": queries.queries,
    "convergence": convergence.convergence,
    "twins": twins.twins,
    "events": events.events,
    "amqp": amqp.amqp,
    "devicebound": devicebound.devicebound,
    "transports": transports.transports,
    "jobs": jobs.jobs,
    "edge": edge.edge,
    "backlog": backlog.backlog,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(_BENCHMARKS)}; all if none")
    parser.add_argument("--quick", action="store_true", help="small and short, to see it work")
    parser.add_argument("--devices", type=int, help="how many take part in the storm")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in _BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(_BENCHMARKS)}")
    rows: list[report.Row] = []
    failed = False
    for name in options.names or _BENCHMARKS:
        print(f"measuring {name} …", file=sys.stderr)
        try:
            if name == "storm" and options.devices:
                found = fleet.storm(quick=options.quick, count=options.devices)
            else:
                found = _BENCHMARKS[name](quick=options.quick)
        except BenchmarkError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        report.save(name, found, quick=options.quick)
        rows += found
    report.show(rows)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
