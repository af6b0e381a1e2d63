"""Fixtures for tests that open sockets; `conftest.py` here and in `tests/hostile` take them in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from muster.net import timers
from muster.net.listener import Listener
from muster.net.tls import server_context
from unit.net.loopback import HOST, Certificate

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from muster.net.stream import Limits

Listen = Callable[..., Awaitable[Listener]]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
async def fine_wheel() -> None:
    """Wake sleepers more precisely than the service does, so that tests need not wait."""
    timers._wheels[asyncio.get_running_loop()] = timers.TimerWheel(0.02)


@pytest.fixture
async def listen(certificate: Certificate) -> AsyncIterator[Listen]:
    """Return a function that starts a listener, over TLS unless told otherwise."""
    context = server_context(certificate.certificate, certificate.key)
    listeners: list[Listener] = []

    async def start(
        protocol_factory: Callable[[], asyncio.Protocol],
        limits: Limits | None = None,
        *,
        tls: bool = True,
    ) -> Listener:
        listener = await Listener.listen(
            HOST, 0, context if tls else None, protocol_factory, limits
        )
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        await listener.close(drain_s=0.0)
        assert listener.connections == 0


@pytest.fixture
def log() -> Any:
    """Return the list of log events, as structlog's processors see them."""
    events: list[MutableMapping[str, Any]]
    with structlog.testing.capture_logs() as events:
        yield events
