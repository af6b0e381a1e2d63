from __future__ import annotations

from typing import TYPE_CHECKING

import uvloop

from unit.net.net_fixtures import certificate, fine_wheel, listen

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

__all__ = ["certificate", "fine_wheel", "listen"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], AbstractEventLoop]]:
    """Run on the loop that fleets run on."""
    return {"uvloop": uvloop.new_event_loop}
