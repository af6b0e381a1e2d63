"""Fixtures of the hub's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from muster.clock import ManualClock
from unit.hub.deployment_parts import Deploying
from unit.hub.hub_parts import Parts, build
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def parts(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Parts]:
    parts = await build(tmp_path, clock)
    yield parts
    await parts.close()


@pytest.fixture
def rest(parts: Parts) -> Rest:
    return Rest(
        parts, (route for each in parts.http for route in each.routes()), parts.access.group
    )


@pytest.fixture
def deploying(parts: Parts) -> Deploying:
    return Deploying(parts)
