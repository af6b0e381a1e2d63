"""A module that takes messages by a route, desired properties and methods.

What it gets it notes in files of the directory `LEDGER`: `received` the number of each message,
`begun` how many lines `received` had at each of its starts, `desired` the last desired property
`wish`. The method `ping` is answered with its payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

from azure.iot.device import Message, MethodRequest, MethodResponse
from azure.iot.device.aio import IoTHubModuleClient

LEDGER: Final = Path(os.environ["LEDGER"])


def note(name: str, value: object) -> None:
    with (LEDGER / name).open("a") as file:
        file.write(f"{value}\n")


async def message(got: Message) -> None:
    # Without a pause in it, so that the SDK runs one after the other.
    note("received", json.loads(got.data))


async def desired(patch: dict[str, Any]) -> None:
    if "wish" in patch:
        note("desired", patch["wish"])


async def main() -> None:
    received = LEDGER / "received"
    note("begun", len(received.read_text().split()) if received.exists() else 0)
    while True:
        client = None
        try:
            client = IoTHubModuleClient.create_from_edge_environment(connection_retry_interval=1)

            async def method(request: MethodRequest) -> None:
                answer = MethodResponse.create_from_method_request(request, 200, request.payload)
                await client.send_method_response(answer)  # noqa: B023 - of the last one

            await client.connect()
            client.on_message_received = message
            client.on_method_request_received = method
            client.on_twin_desired_properties_patch_received = desired
            await desired((await client.get_twin())["desired"])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            print(f"no connection: {error!r}", flush=True)
            if client is not None:
                with contextlib.suppress(Exception):
                    await client.shutdown()
            await asyncio.sleep(0.5)
        else:
            break
    note("ready", "")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
