"""The least that registers devices behind a plain broker: it checks and stores nothing.

`python -m benchmarks.responder ADDRESS PORT`
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Publish, Suback, Subscribe


class Responder(asyncio.Protocol):
    """Answers every request on `dps/req/{id}/{verb}/…`."""

    def __init__(self) -> None:
        self._decoder = codec.Decoder()
        self._packet_id = 0
        self._transport: asyncio.Transport
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connect = Connect(
            client_id="responder",
            username=None,
            password=None,
            clean_session=True,
            keep_alive_s=0,
        )
        self._transport.write(codec.encode(connect))

    def data_received(self, data: bytes) -> None:
        answers = []
        for packet in self._decoder.feed(data):
            if isinstance(packet, Connack):
                answers.append(codec.encode(Subscribe(1, [("dps/req/#", 0)])))
            elif isinstance(packet, Suback):
                print("subscribed", flush=True)
            elif isinstance(packet, Publish):
                answers.append(self._answer(packet.topic.split("/")))
        if answers:
            self._transport.write(b"".join(answers))

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)

    def _answer(self, topic: list[str]) -> bytes:
        name, verb = topic[2].encode(), topic[3]
        if verb == "register":
            body = b'{"operationId":"4.%s","status":"assigning"}' % name
        else:
            body = (
                b'{"operationId":"4.%s","status":"assigned","registrationState":'
                b'{"registrationId":"%s","assignedHub":"localhost","deviceId":"%s",'
                b'"status":"assigned"}}' % (name, name, name)
            )
        self._packet_id = self._packet_id % 0xFFFF + 1
        return codec.encode_publish(f"dps/res/{topic[2]}", body, qos=1, packet_id=self._packet_id)


async def _run(address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    _, responder = await loop.create_connection(Responder, address, port)
    await responder.over


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], int(sys.argv[2])))
