from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from unit.edge.upstream.session_subject import Subject
from unit.edge.upstream.upstream_peer import Peer
from unit.net.net_fixtures import certificate, fine_wheel, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unit.net.loopback import Certificate
    from unit.net.net_fixtures import Listen

__all__ = ["certificate", "fine_wheel", "listen"]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def begin(
    peer: Peer, listen: Listen, certificate: Certificate
) -> AsyncIterator[Callable[..., Subject]]:
    """Return a function that opens a session with the peer."""
    listener = await listen(peer.make_line)
    subjects: list[Subject] = []

    def start(**options: Any) -> Subject:
        subjects.append(Subject(listener, certificate, **options))
        return subjects[-1]

    yield start
    for subject in subjects:
        await subject.session.close()
        await subject.dialler.close(5.0)
    # Nothing goes on after `close`.
    assert asyncio.all_tasks() == {asyncio.current_task()}
