"""The first half of `muster demo`: a fleet is enrolled, provisioned and looked at."""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from azure.iot.device import (
    IoTHubDeviceClient,
    Message,
    ProvisioningDeviceClient,
    exceptions,
)

if TYPE_CHECKING:
    from muster.cli.demo_stage import Stage

GATEWAY: Final = "gateway-01"
"""The device that becomes an edge device in the second half."""
_DEVICES: Final = 10


def show_fleet(stage: Stage, https_port: int) -> tuple[dict[str, Any], str]:
    """Show it; return what `muster info --json` says, and the key of `GATEWAY`.

    Raises:
        click.ClickException: something does not work.
    """
    say, muster = stage.say, stage.muster
    twin = ["--tags", '{"site": "plant-a", "line": 7}', "--desired", '{"interval": 30}']

    say("Start the whole service: provisioning and one hub, in one process")
    stage.show("muster", "up", "--listen", "127.0.0.1")
    info = stage.start_service(https_port)
    muster("info")

    say("Create an individual enrollment for an IoT Edge device, with twin tags")
    muster("enrollment", "create", GATEWAY, "--edge", *twin)

    say("Create an enrollment group for the rest of the fleet")
    muster("enrollment-group", "create", "line-7", "--edge", *twin)

    say("Derive a key for each device of the group")
    members = [f"sensor-{number:02d}" for number in range(1, _DEVICES)]
    listing = stage.directory / "ids.txt"
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
    own = json.loads(muster("enrollment", "show", GATEWAY, "--show-keys", "--json", show=False))
    keys[GATEWAY] = own["attestation"]["symmetricKey"]["primaryKey"]

    say(f"Provision {len(keys)} devices with the official SDK (azure-iot-device, unmodified)")
    with ThreadPoolExecutor(len(keys)) as pool:
        work = partial(_provision, info)
        for registration_id, (status, place, took) in zip(
            keys, pool.map(work, keys, keys.values()), strict=True
        ):
            stage.note(f"{registration_id:12} {status:10} {place:26} {took:.2f} s")
            if status != "assigned":
                raise click.ClickException(f"{registration_id} was not assigned")

    say("The enrollment is assigned, with its device ID")
    muster("enrollment", "show", GATEWAY)

    say("The group's registration records")
    muster("registration", "list", "--group", "line-7")

    say("A device's modules and twin in its hub")
    muster("module", "list", GATEWAY)
    muster("twin", "show", GATEWAY)

    say("The device sends telemetry; the operator sees it")
    hub = info["hubs"][0]["host"]
    _send(info, hub, GATEWAY, keys[GATEWAY], '{"temperature": 21.5}')
    tail = muster("events", "tail", "--from", "earliest", "--count", "1", "--timeout", "20")
    if "21.5" not in tail:
        raise click.ClickException("The message did not arrive")

    say("A device with the wrong key is refused, and the service says why")
    group = json.loads(
        muster("enrollment-group", "show", "line-7", "--show-keys", "--json", show=False)
    )
    _refused(info, group["attestation"]["symmetricKey"]["primaryKey"])
    muster("registration", "explain", "sensor-99")
    return info, keys[GATEWAY]


def _provision(info: dict[str, Any], registration_id: str, key: str) -> tuple[str, str, float]:
    """Do what a device does on first boot, with the unmodified official SDK."""
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


def _refused(info: dict[str, Any], group_key: str) -> None:
    """Make the most common mistake: put the group key itself on a device."""
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    # A timer of the SDK outlives a client that failed, and complains when the process ends.
    threading.excepthook = lambda _: None
    try:
        _provision(info, "sensor-99", group_key)
    except (exceptions.ClientError, exceptions.CredentialError):
        return
    raise click.ClickException("The wrong key was not refused")
