"""Cloud-to-device messages and kill -9: what was accepted arrives, what was completed is gone.

Back ends send while one half of the devices receives over MQTT and the other half over HTTPS, and
the service is killed at a random moment, again and again.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import random
import ssl
from typing import TYPE_CHECKING, Any, Final

from service_load import GoneError, Wire

from muster.wire.mqtt.packets import Connack, Connect, Puback, Publish, Suback, Subscribe
from support.device import hub_token, unique
from support.https import request
from support.service import message_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.https import Reply
    from support.instance import Instance

KILLS: Final = 4
LOCK_S: Final = 5
"""Long enough to settle at once, short enough to wait for at the end."""
VERSION: Final = "api-version=2021-04-12"


class Device:
    """One device over all lives of the service.

    Attributes:
        accepted: the messages its back end was told are queued.
        received: what it got, repetitions included.
        completed: what it was told is gone.
    """

    def __init__(self, instance: Instance, name: str) -> None:
        self.instance = instance
        self.device_id = unique(name)
        self.key, _ = instance.hub().create_device(self.device_id)
        self.host = instance.place.hubs[0]
        self.number = 0
        self.accepted: list[bytes] = []
        self.received: list[bytes] = []
        self.completed: list[bytes] = []
        self.subscribed = False

    async def send(self, service: Any) -> None:
        """Send numbered messages, for ever."""
        while True:
            body = b"%d" % self.number
            self.number += 1
            message = {"body": base64.b64encode(body).decode()}
            reply = await asyncio.to_thread(
                service.call, "POST", message_path(self.device_id), message
            )
            if reply.status == 204:
                self.accepted.append(body)
            else:
                # Full: the device comes after.
                assert reply.headers["iothub-errorcode"] == "DeviceMaximumQueueDepthExceeded"

    def call(self, method: str, tail: str) -> Reply:
        path = f"/devices/{self.device_id}/messages/devicebound{tail}?{VERSION}"
        headers = {
            "Authorization": hub_token(self.host, self.device_id, self.key),
            "IoTHub-MessageLockTimeout": str(LOCK_S),
        }
        place, ca_file = self.instance.place, self.ca_file
        return request(place, ca_file, method, path, host=self.host, headers=headers, body=b"")

    async def receive_https(self, *, until_empty: bool = False) -> None:
        """Receive and complete, for ever or until there is nothing more."""
        while True:
            reply = await asyncio.to_thread(self.call, "GET", "")
            if reply.status == 204 and until_empty:
                return
            if reply.status == 204:
                continue
            assert reply.status == 200, reply.body
            self._got(reply.body)
            token = reply.headers["ETag"].strip('"')
            settled = await asyncio.to_thread(self.call, "DELETE", f"/{token}")
            # On a slow machine the lock may have run out.
            assert settled.status in {204, 412}, settled.body
            if settled.status == 204:
                self.completed.append(reply.body)

    async def receive_mqtt(self, context: ssl.SSLContext) -> None:
        """Receive and acknowledge, for ever; subscribe once in all lives."""
        packet = Connect(
            self.device_id,
            f"{self.host}/{self.device_id}/?{VERSION}",
            hub_token(self.host, self.device_id, self.key).encode(),
            clean_session=False,
        )
        wire = await Wire.connect(self.instance, context, packet)
        try:
            assert (await wire.receive(Connack)).return_code == 0
            if not self.subscribed:
                wire.send(Subscribe(1, [(f"devices/{self.device_id}/messages/devicebound/#", 1)]))
                await wire.receive(Suback)
                self.subscribed = True
            while True:
                message = await wire.receive(Publish)
                assert message.packet_id is not None
                self._got(message.payload)
                wire.send(Puback(message.packet_id))
        finally:
            wire.close()

    def _got(self, body: bytes) -> None:
        assert body not in self.completed, f"{body!r} came again after it was completed"
        self.received.append(body)

    @property
    def ca_file(self) -> Any:
        # Not `instance.ca_file`: after a kill the file that tells it is gone.
        return self.instance.data_dir / "ca" / "ca.pem"


async def test_kill_9_between_messages(new_instance: Callable[..., Instance]) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    instance = new_instance()
    by_mqtt = [Device(instance, f"mqtt-{number}") for number in range(3)]
    by_https = [Device(instance, f"https-{number}") for number in range(3)]
    devices = [*by_mqtt, *by_https]
    assert instance.ca_file == devices[0].ca_file
    context = ssl.create_default_context(cafile=instance.ca_file)
    for _ in range(KILLS):
        service = instance.hub()
        await live(
            instance,
            moments.uniform(0.5, 1.5),
            *(device.send(service) for device in devices),
            *(device.receive_mqtt(context) for device in by_mqtt),
            *(device.receive_https() for device in by_https),
        )
        await asyncio.to_thread(instance.start)
    await drain(instance, by_mqtt, by_https, context)
    for device in devices:
        assert len(device.accepted) > 5
        missing = set(device.accepted) - set(device.received)
        assert not missing, f"{device.device_id} never got {missing}"
        # Every message was sent once; those that nobody was told of may have been stored or not.
        assert set(device.received) <= {b"%d" % number for number in range(device.number)}
    print(f"{sum(len(device.accepted) for device in devices)} messages")
    assert "Traceback" not in instance.log_text()


async def live(instance: Instance, run_s: float, *workers: Awaitable[None]) -> None:
    """Let all work for a while, then kill the service."""
    killed = asyncio.Event()

    async def until_killed(worker: Awaitable[None]) -> None:
        try:
            await worker
        except (GoneError, OSError, http.client.HTTPException):
            assert killed.is_set(), "the service closed a connection"

    tasks = [asyncio.ensure_future(until_killed(worker)) for worker in workers]
    await asyncio.wait(tasks, timeout=run_s, return_when=asyncio.FIRST_EXCEPTION)
    killed.set()
    instance.kill9()
    await asyncio.gather(*tasks)


async def drain(
    instance: Instance, by_mqtt: list[Device], by_https: list[Device], context: ssl.SSLContext
) -> None:
    """Receive all that waits: what was locked when the service died comes when that is over."""
    service = instance.hub()
    receiving = [asyncio.ensure_future(device.receive_mqtt(context)) for device in by_mqtt]

    async def until_empty(device: Device) -> None:
        async with asyncio.timeout(90):
            while await asyncio.to_thread(service.message_count, device.device_id):
                if device in by_https:
                    await device.receive_https(until_empty=True)
                await asyncio.sleep(0.05)

    try:
        await asyncio.gather(*(until_empty(device) for device in [*by_mqtt, *by_https]))
    finally:
        for task in receiving:
            task.cancel()
        await asyncio.gather(*receiving, return_exceptions=True)
