"""A module as people write them, with the official SDK and nothing of ours: it counts.

The same program runs as a process of the device and in a container: the runtime tells it who it is
in its environment.
"""

import asyncio
import json

from azure.iot.device import Message
from azure.iot.device.aio import IoTHubModuleClient


async def main() -> None:
    """Send a number twice a second."""
    client = IoTHubModuleClient.create_from_edge_environment()
    await client.connect()
    number = 0
    while True:
        number += 1
        # The SDK has no types.
        message = Message(json.dumps({"number": number}))  # type: ignore[no-untyped-call]
        message.content_type, message.content_encoding = "application/json", "utf-8"
        await client.send_message_to_output(message, "counted")
        print("sent", number, flush=True)  # noqa: T201 - a module's log is what it prints
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main())
