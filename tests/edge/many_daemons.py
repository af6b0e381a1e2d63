"""Runs the daemons of many devices in one process: each argument is a configuration file.

A process each would be the real thing, but two hundred of them need more memory and processors than
test machines have. Everything but the process is each daemon's own: home, sockets, sessions, edge
hub, modules with their supervisors. The machine counts as one that has just booted. Says `started`
when all management APIs answer.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from muster.clock import SystemClock
from muster.edge.configuration.load import load
from muster.edge.daemon.daemon import Daemon
from muster.edge.daemon.own_log import OwnLog
from muster.edge.upstream.arrival import Arrival
from muster.ids import Randomness
from muster.observe.logs import configure


async def main(files: list[Path]) -> None:
    clock, randomness = SystemClock(), Randomness()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    daemons = [
        Daemon(
            load(file).settings,
            OwnLog(clock),
            Arrival.of_start(up_s=0, randomness=randomness),
            clock=clock,
            randomness=randomness,
        )
        for file in files
    ]
    # One after the other: they do the same in any order, and the first are not held up by the last.
    for daemon in daemons:
        await daemon.start()
    print("started", flush=True)
    await stop.wait()
    await asyncio.gather(*(daemon.close(stop_modules=True) for daemon in daemons))


if __name__ == "__main__":
    configure()
    asyncio.run(main([Path(argument) for argument in sys.argv[1:]]))
