"""Devices at work on a service that is about to be killed, and what was acknowledged to them.

Each runs until its connection breaks. It notes an acknowledgement only when it has read it, so
whatever is noted must outlive the service.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connack, Connect, Puback, Publish, Suback, Subscribe
from support.device import DPS_RESPONSES, hub_token
from support.secrets import derive, token

if TYPE_CHECKING:
    from muster.wire.mqtt.packets import Packet
    from support.instance import Instance

T = TypeVar("T")

PATIENCE_S = 20.0
WINDOW = 40
"""Telemetry messages of one device that wait for their PUBACK."""
FILTERS = ("$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#")


class GoneError(Exception):
    """The service is not there any more."""


class Wire:
    """An MQTT connection over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = codec.Decoder()
        self._inbox: deque[Packet] = deque()

    @classmethod
    async def connect(cls, instance: Instance, context: ssl.SSLContext, packet: Connect) -> Wire:
        place = instance.place
        host = str(packet.username).partition("/")[0]
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(
                    place.address,
                    place.mqtt_port,
                    ssl=context,
                    server_hostname=host if host in place.hubs else place.dps,
                )
        except (OSError, ssl.SSLError) as error:
            raise GoneError from error
        wire = cls(reader, writer)
        wire.send(packet)
        return wire

    def send(self, *packets: Packet) -> None:
        # What was received before the end is still read, and there is nobody to answer.
        if not self._writer.transport.is_closing():
            self._writer.write(b"".join(map(codec.encode, packets)))

    async def receive(self, kind: type[T]) -> T:
        """Return the next packet, which must be of this kind."""
        while not self._inbox:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    data = await self._reader.read(65_536)
            except TimeoutError:
                raise
            except (OSError, ssl.SSLError) as error:
                raise GoneError from error
            if not data:
                raise GoneError
            self._inbox.extend(self._decoder.feed(data))
        packet = self._inbox.popleft()
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet!r}"
        return packet

    def close(self) -> None:
        self._writer.transport.abort()


@dataclass
class Reporter:
    """A device that reports one number again and again, in several properties at once."""

    device_id: str
    key: str
    subscribed: bool = False
    sent: int = 0
    acknowledged: int = 0


@dataclass
class Sender:
    """A device that sends numbered telemetry; how much of it was acknowledged, by life."""

    device_id: str
    key: str
    sent: list[int] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)


def body_of(device_id: str, life: int, number: int) -> dict[str, Any]:
    """What message `number` says; of a length of its own, so that no two could be mixed up."""
    return {"device": device_id, "life": life, "n": number, "pad": f"{number:x}" * (number % 50)}


class Load:
    """All devices, over all lives of the service."""

    def __init__(
        self,
        instance: Instance,
        group_keys: tuple[str, str],
        reporters: list[Reporter],
        senders: list[Sender],
    ) -> None:
        self._instance = instance
        # Read once: after a kill the file that tells it is gone.
        self._id_scope = instance.id_scope
        self._group_keys = group_keys
        self._context = ssl.create_default_context(cafile=instance.ca_file)
        self._numbers = itertools.count()
        self._killed = False
        self.reporters = reporters
        self.senders = senders
        self.begun: set[str] = set()
        self.assigned: dict[str, dict[str, Any]] = {}
        """The registration states that devices were told."""

    async def live(self, life: int, run_s: float, registrars: int) -> None:
        """Let all devices work for a while, then kill the service."""
        self._killed = False
        workers = [
            *(self._register_many() for _ in range(registrars)),
            *(self._report(reporter) for reporter in self.reporters),
            *(self._send(sender, life) for sender in self.senders),
        ]
        tasks = [asyncio.ensure_future(self._until_killed(worker)) for worker in workers]
        await asyncio.wait(tasks, timeout=run_s, return_when=asyncio.FIRST_EXCEPTION)
        self._killed = True
        self._instance.kill9()
        await asyncio.gather(*tasks)

    async def _until_killed(self, worker: Any) -> None:
        try:
            await worker
        except GoneError:
            assert self._killed, "the service closed a connection of a device that did no wrong"

    # Registering.

    async def _register_many(self) -> None:
        while True:
            await self.register(f"crash-{next(self._numbers):05d}")

    async def register(self, registration_id: str) -> None:
        """Register, and note it once the final answer is there."""
        instance = self._instance
        number = len(self.begun)
        self.begun.add(registration_id)
        key = derive(self._group_keys[number % 2], registration_id)
        resource = f"{self._id_scope}/registrations/{registration_id}"
        username = f"{resource}/api-version=2019-03-31"
        password = token(resource, key, key_name="registration").encode()
        wire = await Wire.connect(
            instance, self._context, Connect(registration_id, username, password)
        )
        try:
            assert (await wire.receive(Connack)).return_code == 0
            wire.send(Subscribe(1, [(DPS_RESPONSES, 0)]))
            await wire.receive(Suback)
            topic = "$dps/registrations/PUT/iotdps-register/?$rid=1"
            wire.send(Publish(topic, b"{}", 0, None))
            while True:
                answer = await wire.receive(Publish)
                body = json.loads(answer.payload)
                if "/res/202/" not in answer.topic:
                    break
                query = f"?$rid=2&operationId={body['operationId']}"
                topic = f"$dps/registrations/GET/iotdps-get-operationstatus/{query}"
                wire.send(Publish(topic, b" ", 0, None))
        finally:
            wire.close()
        assert "/res/200/" in answer.topic, answer
        assert body["status"] == "assigned", body
        self.assigned[registration_id] = body["registrationState"]

    # In the hub.

    async def _hub(self, device_id: str, key: str) -> tuple[Wire, bool]:
        """Connect, and tell whether there was a session."""
        host = self._instance.place.hubs[0]
        packet = Connect(
            device_id,
            f"{host}/{device_id}/?api-version=2021-04-12",
            hub_token(host, device_id, key).encode(),
            clean_session=False,
        )
        wire = await Wire.connect(self._instance, self._context, packet)
        try:
            connack = await wire.receive(Connack)
        except BaseException:
            wire.close()
            raise
        assert connack.return_code == 0
        return wire, connack.session_present

    async def reconnect(self, reporter: Reporter) -> Wire:
        """Connect, and subscribe only when that was never acknowledged, as the SDKs do."""
        wire, present = await self._hub(reporter.device_id, reporter.key)
        try:
            if reporter.subscribed:
                assert present, "an acknowledged subscription is gone"
            else:
                wire.send(Subscribe(1, [(each, 0) for each in FILTERS]))
                assert (await wire.receive(Suback)).return_codes == [0, 0]
                reporter.subscribed = True
        except BaseException:
            wire.close()
            raise
        return wire

    async def _report(self, reporter: Reporter) -> None:
        wire = await self.reconnect(reporter)
        try:
            while True:
                reporter.sent += 1
                number = reporter.sent
                topic = f"$iothub/twin/PATCH/properties/reported/?$rid={number}"
                patch = {"n": number, "same": {"n": number, f"at{number % 7}": number}}
                wire.send(Publish(topic, json.dumps(patch).encode(), 0, None))
                answer = await wire.receive(Publish)
                assert answer.topic.startswith(f"$iothub/twin/res/204/?$rid={number}&"), answer
                reporter.acknowledged = number
        finally:
            wire.close()

    async def _send(self, sender: Sender, life: int) -> None:
        sender.sent.append(0)
        sender.acknowledged.append(0)
        wire, _ = await self._hub(sender.device_id, sender.key)
        topic = f"devices/{sender.device_id}/messages/events/$.ct=application%2Fjson"
        try:
            while True:
                while sender.sent[life] < sender.acknowledged[life] + WINDOW:
                    number = sender.sent[life]
                    payload = json.dumps(body_of(sender.device_id, life, number)).encode()
                    wire.send(Publish(topic, payload, 1, number % 65_535 + 1))
                    sender.sent[life] += 1
                puback = await wire.receive(Puback)
                assert puback.packet_id == sender.acknowledged[life] % 65_535 + 1
                sender.acknowledged[life] += 1
        finally:
            wire.close()
