"""Where things run: processes pinned to processors, in a directory that is removed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from benchmarks.load.job import Job, Result
from muster.clock import SystemClock

ADDRESS: Final = "127.0.0.1"
CLOCK: Final = SystemClock()
ROOT: Final = Path(__file__).parent.parent
_START_S: Final = 30.0
_STOP_S: Final = 20.0
_SERVER_CPU: Final = "0"
_CLIENT_CPU: Final = "1"


class BenchmarkError(Exception):
    """Something did not run as a measurement needs it."""


def find(program: str, first: str = "") -> str | None:
    """Return the path of an installed program; Debian keeps servers out of users' PATH.

    Args:
        program: its name.
        first: a directory to look into before all others.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return shutil.which(program, path=f"{first}:{path}" if first else path)


def free_port() -> int:
    """Return a port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Make a directory on a real disk; /tmp may be memory, where nothing is durable."""
    where = ROOT / "benchmarks" / "results"
    where.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=where, prefix="run-") as name:
        yield Path(name)


def _pin(cpu: str) -> list[str]:
    taskset = find("taskset")
    return [taskset, "-c", cpu] if taskset and (os.cpu_count() or 1) > 1 else []


def pinned_client(command: Sequence[str | Path]) -> list[str | Path]:
    """Return a command that runs on the clients' processor."""
    return [*_pin(_CLIENT_CPU), *command]


@contextlib.contextmanager
def server(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[subprocess.Popen[bytes]], bool],
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on its processor until the block ends.

    Raises:
        BenchmarkError: it ended, or was not ready in time.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*_pin(_SERVER_CPU), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        end = CLOCK.monotonic() + _START_S
        while not ready(process):
            if process.poll() is not None or CLOCK.monotonic() > end:
                tail = log.read_text(errors="replace")[-1_000:]
                raise BenchmarkError(f"{command[0]} did not start: {tail}")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening(port: int) -> Callable[[subprocess.Popen[bytes]], bool]:
    """Return a check of whether a port is served."""

    def check(_: subprocess.Popen[bytes]) -> bool:
        try:
            socket.create_connection((ADDRESS, port), 1).close()
        except OSError:
            return False
        return True

    return check


def load(job: Job) -> Result:
    """Do a job in a process of its own, on the client's processor.

    Raises:
        BenchmarkError: it failed.
    """
    done = subprocess.run(
        [*_pin(_CLIENT_CPU), sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        timeout=job.timeout_s + 30,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise BenchmarkError(f"the load client ended with {done.returncode}")
    result = msgspec.json.decode(done.stdout, type=Result)
    if not result.operations:
        raise BenchmarkError(f"nothing was done: {result.failures}")
    return result
