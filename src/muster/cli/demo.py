"""`muster demo`: the main job, shown step by step on a temporary instance."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console

from muster.cli.examples import examples

if TYPE_CHECKING:
    pass

_DEVICES: Final = 10
_LOOPBACK: Final = "127.0.0.1"
_START_S: Final = 30.0


class _Demo:
    """One run: a service process, and the commands an operator and ten devices would run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.console = Console(highlight=False)
        self.step = 0
        self.service: subprocess.Popen[bytes] | None = None

    def say(self, text: str) -> None:
        self.step += 1
        self.console.print(f"\n[bold]{self.step}. {text}[/bold]")

    def muster(self, *arguments: str, show: bool = True, quiet: bool = False) -> str:
        """Run a `muster` command as an operator would, showing it and what it prints."""
        if show:
            shown = " ".join(
                f"'{each}'" if " " in each or "{" in each else each for each in arguments
            )
            self.console.print(f"[cyan]$ muster {shown}[/cyan]", soft_wrap=True)
        done = subprocess.run(  # noqa: S603 - our own command with our own arguments
            [sys.executable, "-m", "muster", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "MUSTER_DATA_DIR": str(self.data_dir)},
        )
        if done.returncode != 0:
            raise click.ClickException(
                f"muster {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr.strip()}"
            )
        if show and not quiet:
            self.console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
        return done.stdout

    def start(self, https_port: int) -> dict[str, Any]:
        with (self.directory / "service.log").open("wb") as log:
            self.service = subprocess.Popen(  # noqa: S603 - our own command
                [
                    *(sys.executable, "-m", "muster", "up", "--data-dir", str(self.data_dir)),
                    *("--listen", _LOOPBACK, "--https-port", str(https_port), "--amqp-port", "0"),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_S
        ready = self.data_dir / "instance.json"
        while not ready.exists():
            if self.service.poll() is not None or time.monotonic() > deadline:
                log_text = (self.directory / "service.log").read_text(errors="replace")
                raise click.ClickException(f"The service did not start:\n{log_text.strip()}")
            time.sleep(0.02)
        found: dict[str, Any] = json.loads(self.muster("info", "--json", show=False))
        return found

    def stop(self) -> int:
        if self.service is None:
            return 0
        self.service.send_signal(signal.SIGTERM)
        return self.service.wait(30)


def _may_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True


def _provision(info: dict[str, Any], registration_id: str, key: str) -> tuple[str, str, float]:
    """Do what a device does on first boot, with the unmodified official SDK."""
    from azure.iot.device import ProvisioningDeviceClient  # noqa: PLC0415 - demo only

    started = time.monotonic()
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=info["dpsHost"],
        registration_id=registration_id,
        id_scope=info["idScope"],
        symmetric_key=key,
        server_verification_cert=Path(info["caFile"]).read_text(),
    )
    result = client.register()
    took = time.monotonic() - started
    state = result.registration_state
    place = f"{state.assigned_hub}/{state.device_id}" if state else ""
    return str(result.status), place, took


def _send(info: dict[str, Any], hub: str, device_id: str, key: str, text: str) -> None:
    from azure.iot.device import (  # noqa: PLC0415 - demo only
        IoTHubDeviceClient,
        Message,
    )

    client = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=key,
        hostname=hub,
        device_id=device_id,
        server_verification_cert=Path(info["caFile"]).read_text(),
    )
    client.connect()
    # The SDK has no types.
    message: Any = Message(  # type: ignore[no-untyped-call]
        text, content_encoding="utf-8", content_type="application/json"
    )
    client.send_message(message)
    client.patch_twin_reported_properties({"firmware": "1.0.0"})
    client.shutdown()


def _run(demo: _Demo, https_port: int) -> None:
    say, muster = demo.say, demo.muster
    twin = ["--tags", '{"site": "plant-a", "line": 7}', "--desired", '{"interval": 30}']

    say("Start the whole service: provisioning and one hub, in one process")
    demo.console.print(f"[cyan]$ muster up --listen {_LOOPBACK}[/cyan]")
    info = demo.start(https_port)
    muster("info")

    say("Create an individual enrollment for an IoT Edge device, with twin tags")
    muster("enrollment", "create", "gateway-01", "--edge", *twin)

    say("Create an enrollment group for the rest of the fleet")
    muster("enrollment-group", "create", "line-7", "--edge", *twin)

    say("Derive a key for each device of the group")
    members = [f"sensor-{number:02d}" for number in range(1, _DEVICES)]
    listing = demo.directory / "ids.txt"
    listing.write_text("".join(f"{each}\n" for each in members))
    muster("enrollment-group", "derive-key", "--group", "line-7", "--from-file", str(listing))
    derived = json.loads(
        muster(
            *("enrollment-group", "derive-key", "--group", "line-7"),
            *("--from-file", str(listing), "--json"),
            show=False,
        )
    )
    keys = {each["registrationId"]: each["key"] for each in derived}
    own = json.loads(
        muster("enrollment", "show", "gateway-01", "--show-keys", "--json", show=False)
    )
    keys["gateway-01"] = own["attestation"]["symmetricKey"]["primaryKey"]

    say(f"Provision {len(keys)} devices with the official SDK (azure-iot-device, unmodified)")
    with ThreadPoolExecutor(len(keys)) as pool:
        work = partial(_provision, info)
        for registration_id, (status, place, took) in zip(
            keys, pool.map(work, keys, keys.values()), strict=True
        ):
            demo.console.print(f"   {registration_id:12} {status:10} {place:26} {took:.2f} s")
            if status != "assigned":
                raise click.ClickException(f"{registration_id} was not assigned")

    say("The enrollment is assigned, with its device ID")
    muster("enrollment", "show", "gateway-01")

    say("The group's registration records")
    muster("registration", "list", "--group", "line-7")

    say("A device's modules and twin in its hub")
    muster("module", "list", "gateway-01")
    muster("twin", "show", "gateway-01")

    say("The device sends telemetry; the operator sees it")
    hub = info["hubs"][0]["host"]
    _send(info, hub, "gateway-01", keys["gateway-01"], '{"temperature": 21.5}')
    tail = muster("events", "tail", "--from", "earliest", "--count", "1", "--timeout", "20")
    if "21.5" not in tail:
        raise click.ClickException("The message did not arrive")

    say("A device with the wrong key is refused, and the service says why")
    group = json.loads(
        muster("enrollment-group", "show", "line-7", "--show-keys", "--json", show=False)
    )
    _refused(info, group["attestation"]["symmetricKey"]["primaryKey"])
    muster("registration", "explain", "sensor-99")


def _refused(info: dict[str, Any], group_key: str) -> None:
    """Make the most common mistake: put the group key itself on a device."""
    import logging  # noqa: PLC0415 - demo only
    import threading  # noqa: PLC0415 - likewise

    from azure.iot.device import exceptions  # noqa: PLC0415 - demo only

    logging.getLogger("azure").setLevel(logging.CRITICAL)
    # A timer of the SDK outlives a client that failed, and complains when the process ends.
    threading.excepthook = lambda _: None
    try:
        _provision(info, "sensor-99", group_key)
    except (exceptions.ClientError, exceptions.CredentialError):
        return
    raise click.ClickException("The wrong key was not refused")


@click.command()
@examples("muster demo")
def demo() -> None:
    """Show the main job on a temporary instance, then clean up.

    Starts a service, creates enrollments, provisions ten devices with the official Azure IoT
    device SDK, and shows what an operator sees. Takes about ten seconds.
    """
    try:
        import azure.iot.device  # noqa: F401, PLC0415 - asked for before anything is started
    except ImportError:
        raise click.ClickException(
            "The demo's devices use the official SDK. Install it: pip install azure-iot-device"
        ) from None
    for port in (8883,):
        if not _may_bind(port):
            raise click.ClickException(
                f"Port {port} of {_LOOPBACK} is taken, and the SDKs know no other. Stop what "
                f"listens there (ss -ltnp 'sport = :{port}' names it)."
            )
    https_port = next((port for port in (443, 8443) if _may_bind(port)), 0)
    with tempfile.TemporaryDirectory(prefix="muster-demo-") as directory:
        run = _Demo(Path(directory))
        try:
            _run(run, https_port)
        finally:
            run.say("Stop what was started")
            code = run.stop()
        if code != 0:
            raise click.ClickException(f"The service ended with {code}")
        run.console.print("   The service has stopped; its data is gone. That was the main job.")
