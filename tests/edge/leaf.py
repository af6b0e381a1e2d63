"""A leaf device that sends numbered messages through its edge device, as `sender.py` does.

`CONNECTION_STRING` says who it is, `TRUST` names the file of what it trusts; `CERTIFICATE` names
that of its certificate and private key, where it has no key. Cloud-to-device messages it notes as
`messages`; methods it answers with their payload.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azure.iot.device import X509, IoTHubDeviceClient, Message, MethodRequest, MethodResponse
from sender import note, run


def connection() -> IoTHubDeviceClient:
    options: dict[str, Any] = {
        "server_verification_cert": Path(os.environ["TRUST"]).read_text(),
        "connection_retry_interval": 1,
    }
    text = os.environ["CONNECTION_STRING"]
    if "CERTIFICATE" not in os.environ:
        return IoTHubDeviceClient.create_from_connection_string(text, **options)
    parts = dict(part.split("=", 1) for part in text.split(";"))
    file = os.environ["CERTIFICATE"]
    return IoTHubDeviceClient.create_from_x509_certificate(
        x509=X509(cert_file=file, key_file=file),
        hostname=parts["HostName"],
        gateway_hostname=parts["GatewayHostName"],
        device_id=parts["DeviceId"],
        **options,
    )


def make() -> IoTHubDeviceClient:
    client = connection()

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
