"""Parts of the edge runtime as tests put them together."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from muster.clock import SystemClock
from muster.edge.upstream.base import Link, Message
from muster.edge.upstream.login import Gateway, Login

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.edge.provisioning.provisioner import Provisioned
    from support.instance import Instance

PATIENCE_S = 50.0
"""How long anything may take before a test gives up. Never what a test measures."""


class ShiftedClock(SystemClock):
    """A clock that can be set, as a time server does it: its steady counter goes on."""

    def __init__(self, shift_s: float = 0.0) -> None:
        self.shift_s = shift_s

    def time(self) -> float:
        return super().time() + self.shift_s


class SessionOwner:
    """Who wanted a session, and remembers what it was told."""

    def __init__(self) -> None:
        self.links: list[tuple[Link, str]] = []
        self.patches: list[dict[str, Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.messages: list[Message] = []
        self.answer: Callable[[str, Any], Any] = lambda name, payload: (200, [name, payload])
        self.taking = asyncio.Event()
        """While it is not set, messages are not taken."""
        self.taking.set()
        self.refusing: Exception | None = None
        """Raised once, in place of taking a message."""
        self.taken = 0
        """Messages that it was asked to take, taken or not."""

    def link_changed(self, link: Link, detail: str) -> None:
        self.links.append((link, detail))

    def desired_changed(self, patch: dict[str, Any]) -> None:
        self.patches.append(patch)

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        self.calls.append((name, payload))
        found = self.answer(name, payload)
        return await found if asyncio.iscoroutine(found) else found  # type: ignore[no-any-return]

    async def message(self, message: Message) -> None:
        self.taken += 1
        await self.taking.wait()
        refusing, self.refusing = self.refusing, None
        if refusing is not None:
            raise refusing
        self.messages.append(message)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await asyncio.sleep(0.01)


def gateway(instance: Instance, host: str | None = None) -> Gateway:
    """Return the door of a hub of an instance, or of its provisioning service."""
    place = instance.place
    return Gateway(
        host=host or place.hubs[0],
        https_port=place.https_port,
        mqtt_port=place.mqtt_port,
        address=place.address,
    )


def login(instance: Instance, device_id: str, key: str, module_id: str | None = None) -> Login:
    """Return the login of a device or module of the first hub, with its key in base64."""
    return Login(
        hub_host=instance.place.hubs[0],
        device_id=device_id,
        module_id=module_id,
        key=base64.b64decode(key),
    )


class ProvisioningOwner:
    """Who wants to be provisioned, and remembers what it was told."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, float]] = []
        self.answers: list[Provisioned] = []

    def provisioning_waits(self, reason: str, next_attempt_s: float) -> None:
        self.waits.append((reason, next_attempt_s))

    def provisioned(self, provisioned: Provisioned) -> None:
        self.answers.append(provisioned)
