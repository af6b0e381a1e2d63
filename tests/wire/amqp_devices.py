"""Devices that connect over AMQP."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from muster.wire.amqp import messages
from muster.wire.amqp.messages import Data, Message
from support.amqp import AmqpClient
from support.device import hub_token, unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

LARGEST = 262_144


def created(instance: Instance, prefix: str = "amqp") -> tuple[str, str]:
    device_id = unique(prefix)
    key, _ = instance.hub().create_device(device_id)
    return device_id, key


def connected(instance: Instance, *who: tuple[str, str], ttl_s: int = 3600) -> AmqpClient:
    """Open a connection with tokens of devices (`device` or `device/module`, key)."""
    host = instance.place.hubs[0]
    client = AmqpClient(instance, host)
    client.log_in(*(hub_token(host, name, key, ttl_s=ttl_s) for name, key in who))
    return client


def text(body: bytes = b"{}", **fields: Any) -> bytes:
    return messages.encode(Message(Data([body]), **fields))


def connection_state(instance: Instance, device_id: str) -> str:
    return str(instance.hub().must("GET", f"/devices/{device_id}")["connectionState"])


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Call on another thread; the result is what the returned function returns."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()

    def result() -> Any:
        thread.join(30)
        return found[0]

    return result
