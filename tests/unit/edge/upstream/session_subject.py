"""A session under test, and who wanted it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import Link, Message
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway, Login, Transport
from muster.edge.upstream.session import MqttSession
from muster.edge.upstream.tuning import Tuning
from muster.ids import Randomness
from muster.net.dial import Dialler, client_context
from support.edge import SessionOwner, ShiftedClock, until
from unit.net.loopback import HOST, Certificate

if TYPE_CHECKING:
    from muster.net.listener import Listener

SOON = Backoff(first_s=0.05, cap_s=0.1)
TUNING = Tuning(unreachable=SOON, refused=SOON)
LOGIN = Login(hub_host="localhost", device_id="d1", key=b"k" * 32)


class Subject:
    """A session and who wanted it."""

    def __init__(self, listener: Listener, certificate: Certificate | None, **options: Any) -> None:
        self.owner = SessionOwner()
        owner = options.pop("owner", self.owner)
        context = client_context(None if certificate is None else certificate.certificate)
        self.dialler = Dialler(context)
        port = listener.port
        self.session = MqttSession(
            options.pop("login", LOGIN),
            Gateway(host="localhost", address=HOST, mqtt_port=port, https_port=port),
            owner,
            dialler=self.dialler,
            time=HubTime(ShiftedClock()),
            randomness=Randomness(),
            **{"tuning": TUNING, "ways": [Transport.MQTT], **options},
        )
        self.session.open()

    @property
    def details(self) -> str:
        return " | ".join(detail for _, detail in self.owner.links)

    async def connected(self) -> None:
        await until(lambda: self.session.link is Link.CONNECTED)

    def send(self, *bodies: bytes) -> list[asyncio.Task[None]]:
        return [
            asyncio.ensure_future(self.session.send(Message(bag="a=b", body=body)))
            for body in bodies
        ]
