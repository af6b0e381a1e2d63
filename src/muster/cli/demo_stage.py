"""What all parts of `muster demo` stand on: a directory, a service, commands that are shown."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"
_START_S: Final = 30.0
_STOP_S: Final = 60.0


class Stage:
    """One run of the demo: its processes, and what a reader sees.

    Args:
        directory: for everything, empty.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.console = Console(highlight=False)
        self._step = 0
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def say(self, text: str) -> None:
        """Begin a step."""
        self._step += 1
        self.console.print(f"\n[bold]{self._step}. {text}[/bold]", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something about a step."""
        self.console.print(f"   {text}", markup=False, soft_wrap=True)

    def show(self, *command: str) -> None:
        """Show a command as one types it."""
        self.console.print(f"$ {shlex.join(command)}", style="cyan", markup=False, soft_wrap=True)

    def muster(self, *arguments: str, show: bool = True) -> str:
        """Run a `muster` command as an operator would, showing it and what it prints."""
        return self.run("muster", *arguments, show=show)

    def run(self, program: str, *arguments: str, show: bool = True, said: str = "") -> str:
        """Run one of our commands; return what it printed.

        Args:
            program: `muster` or `iotedge`.
            arguments: of it.
            show: whether to show the command and what it prints.
            said: on its standard input.

        Raises:
            click.ClickException: it failed.
        """
        if show:
            self.show(program, *arguments)
        done = subprocess.run(  # noqa: S603 - our own command with our own arguments
            [*program_of(program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            input=said,
            env={**os.environ, "MUSTER_DATA_DIR": str(self.data_dir)},
        )
        if done.returncode != 0:
            raise click.ClickException(
                f"{program} {' '.join(arguments)} ended with {done.returncode}:\n"
                f"{done.stderr.strip()}"
            )
        if show:
            self.console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
        return done.stdout

    def start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Callable[[], bool]:
        """Start a program that goes on; return what tells whether it still does."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*program_of(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        self._processes.append((name, process))
        return lambda: process.poll() is None

    def start_service(self, https_port: int) -> dict[str, Any]:
        """Start the service; return what `muster info --json` says."""
        alive = self.start(
            *("muster", "up", "--data-dir", str(self.data_dir), "--listen", LOOPBACK),
            *("--https-port", str(https_port), "--amqp-port", "0"),
        )
        ready = self.data_dir / "instance.json"
        self.wait("The service did not start", "muster", ready.exists, _START_S, alive)
        found: dict[str, Any] = json.loads(self.muster("info", "--json", show=False))
        return found

    def wait(
        self,
        trouble: str,
        name: str,
        done: Callable[[], bool],
        patience_s: float,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Wait for something.

        Raises:
            click.ClickException: `trouble`, with the end of the log of `name`.
        """
        deadline = time.monotonic() + patience_s
        while not done():
            if not alive() or time.monotonic() > deadline:
                log = (self.directory / f"{name}.log").read_text(errors="replace")
                raise click.ClickException(f"{trouble}:\n{log.strip()[-3_000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop what was started, the last first.

        Raises:
            click.ClickException: something did not end as it should.
        """
        bad = []
        while self._processes:
            name, process = self._processes[-1]
            if code := self._end(process):
                bad.append(f"{name} ended with {code}")
            del self._processes[-1]
        if bad:
            raise click.ClickException("; ".join(bad))

    def stop_last(self, name: str) -> None:
        """Stop what was started last, if it is called so.

        Raises:
            click.ClickException: it did not end as it should.
        """
        if self._processes and self._processes[-1][0] == name:
            _, process = self._processes.pop()
            if code := self._end(process):
                raise click.ClickException(f"{name} ended with {code}")

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def program_of(name: str) -> list[str]:
    """Return how one of our programs is run by this Python, wherever it is installed."""
    module = {
        "muster": "muster.cli",
        "iotedge": "muster.edge.cli",
        "iotedged": "muster.edge.daemon",
    }
    return [sys.executable, "-c", f"from {module[name]} import main; main()"]


def may_bind(address: str, port: int) -> bool:
    """Tell whether a port of an address is free and ours to take."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
