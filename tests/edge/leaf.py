"""A leaf device that sends numbered messages through its edge device, as `sender.py` does.

`CONNECTION_STRING` says who it is, `TRUST` names the file of what it trusts. Each fifth message has
the property `urgent`. Cloud-to-device messages it notes as `messages`; methods it answers with
their payload.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azure.iot.device import IoTHubDeviceClient, Message, MethodRequest, MethodResponse
from sender import note, run


def make() -> IoTHubDeviceClient:
    client = IoTHubDeviceClient.create_from_connection_string(
        os.environ["CONNECTION_STRING"],
        server_verification_cert=Path(os.environ["TRUST"]).read_text(),
        connection_retry_interval=1,
    )

    def method(request: MethodRequest) -> None:
        answer = MethodResponse.create_from_method_request(request, 200, request.payload)
        client.send_method_response(answer)

    client.on_method_request_received = method
    client.on_message_received = lambda message: note("messages", message.data.decode())
    return client


def send(client: Any, message: Message, output: str) -> None:
    message.custom_properties["kind"] = output
    client.send_message(message)


if __name__ == "__main__":
    run(make, send)
