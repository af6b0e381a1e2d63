"""A real `muster up` process and everything a test does to it from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.secrets import CLOCK
from support.service import Service

if TYPE_CHECKING:
    from collections.abc import Generator

    from support.run import Place

MUSTER = Path(sys.executable).parent / "muster"
START_S = 120.0
STOP_S = 30.0


class InstanceError(AssertionError):
    """The service did not start, did not stop or refused a command."""


class Instance:
    """One instance, started by this process or (shared) by the one that started pytest."""

    def __init__(self, directory: Path, place: Place) -> None:
        self.directory = directory
        self.place = place
        self.data_dir = directory / "data"
        self.log = directory / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    # The process.

    def start(self, *options: str) -> None:
        """Start and wait until it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        hubs = [item for host in self.place.hubs for item in ("--hub", host)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(MUSTER, "up", "--data-dir", self.data_dir, "--listen", self.place.address),
                    *("--hostname", self.place.dps, *hubs),
                    *("--https-port", str(self.place.https_port)),
                    *("--mqtt-port", str(self.place.mqtt_port)),
                    *("--amqp-port", str(self.place.amqp_port), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1"},
            )
        (self.directory / "pid").write_text(str(self.process.pid))
        end = CLOCK.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None:
                raise InstanceError(
                    f"muster up ended with {self.process.returncode}:\n{self.tail()}"
                )
            if CLOCK.monotonic() > end:
                self.kill9()
                raise InstanceError(f"muster up was not ready in {START_S} s:\n{self.tail()}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        # A file that a killed instance left behind names another process, or none.
        try:
            found = json.loads((self.data_dir / "instance.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        assert self.process is not None
        return bool(found.get("pid", self.process.pid) == self.process.pid)

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise InstanceError(f"still there {STOP_S} s after SIGTERM:\n{self.tail()}") from None

    def kill9(self) -> None:
        """End it the hard way."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        (self.data_dir / "instance.json").unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop it cleanly and start it on the same data."""
        if (code := self.stop()) != 0:
            raise InstanceError(f"ended with {code} after SIGTERM:\n{self.tail()}")
        self.start()

    # What it says of itself.

    def info(self) -> dict[str, Any]:
        """Return what `muster info` tells."""
        return self.cli("info")  # type: ignore[no-any-return]

    @property
    def facts(self) -> dict[str, Any]:
        """The instance file, which holds the same object as `muster info --json`."""
        return json.loads((self.data_dir / "instance.json").read_bytes())  # type: ignore[no-any-return]

    @property
    def id_scope(self) -> str:
        return str(self.facts["idScope"])

    @property
    def ca_file(self) -> Path:
        return Path(self.facts["caFile"])

    @property
    def ca(self) -> str:
        return self.ca_file.read_text()

    def hub_connection_string(self, host: str) -> str:
        for hub in self.facts["hubs"]:
            if hub["host"].lower() == host:
                return str(hub["connectionString"])
        raise InstanceError(f"no hub {host} in {[hub['host'] for hub in self.facts['hubs']]}")

    @property
    def dps_connection_string(self) -> str:
        return str(self.facts["dpsConnectionString"])

    @property
    def dps(self) -> Service:
        """The provisioning service's own REST surface, with the owner's policy."""
        return Service(self.place, self.ca_file, self.dps_connection_string, "2021-10-01")

    def hub(self, host: str | None = None) -> Service:
        """A hub's REST surface, with the owner's policy. The first hub unless told."""
        connection_string = self.hub_connection_string(host or self.place.hubs[0])
        return Service(self.place, self.ca_file, connection_string, "2021-04-12")

    def explain(self, identifier: str, patience_s: float = 10) -> list[dict[str, Any]]:
        """Return why the service decided as it did, newest first; nothing when it knows nothing.

        `identifier` is a tracking id, registration id or device id. Decisions are written a
        moment after the answer, so the first one is waited for.
        """
        end = CLOCK.monotonic() + patience_s
        while True:
            reply = self.dps.call("GET", f"/admin/v1/explanations/{identifier}")
            rows = reply.json if reply.status == 200 else []
            if rows or CLOCK.monotonic() > end:
                return list(rows)
            time.sleep(0.05)

    # Logs.

    def log_text(self, start: int = 0) -> str:
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    # The command line.

    def run_cli(self, *args: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `muster …` against this instance, whatever comes of it."""
        self._must_be_named()
        return subprocess.run(
            [MUSTER, *args],
            env={**os.environ, "MUSTER_DATA_DIR": str(self.data_dir), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _must_be_named(self) -> None:
        """Skip the test where no name leads to the instance: an ordinary user cannot add any."""
        if self.place.why_not_named is not None:
            pytest.skip(self.place.why_not_named)

    def cli(self, *args: str) -> Any:
        """Run `muster … --json` and return what it printed, parsed."""
        done = self.run_cli(*args, "--json")
        if done.returncode != 0:
            raise InstanceError(
                f"muster {' '.join(args)} ended with {done.returncode}: {done.stderr}"
            )
        return json.loads(done.stdout)

    def follow(self, *args: str, patience_s: float = 40) -> Generator[dict[str, Any]]:
        """Run a `muster …` that prints a JSON object a line, and yield each as it comes.

        It is ended after `patience_s`, so that a test that waits in vain says what it has.
        """
        self._must_be_named()
        process = subprocess.Popen(
            [MUSTER, *args, "--json"],
            env={**os.environ, "MUSTER_DATA_DIR": str(self.data_dir), "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        patience = threading.Timer(patience_s, process.kill)
        patience.start()
        try:
            for line in process.stdout:
                if line.strip():
                    yield json.loads(line)
        finally:
            patience.cancel()
            process.kill()
            process.stdout.close()
            process.wait()
