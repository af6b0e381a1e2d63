"""`python -m benchmarks.load`: does one job and ends."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from benchmarks.load import amqp, devicebound, methods, registration, telemetry, twins
from benchmarks.load.job import Job, Result


async def _run(job: Job) -> Result:
    kinds = {
        "telemetry": telemetry.run,
        "idle": telemetry.run_idle,
        "methods": methods.run,
        "nats": methods.run_nats,
        "twins": twins.run,
        "amqp": amqp.run,
        "amqp-idle": amqp.run_idle,
        "devicebound": devicebound.run,
    }
    async with asyncio.timeout(job.timeout_s):
        return await kinds.get(job.kind, registration.run)(job)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_run(job))))


if __name__ == "__main__":
    main()
